"""The index tensors of a step reach exactly the keys that each new token may see."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from muster.model.attention import Options, SdpaBackend
from muster.model.batch import Batch
from muster.model.cache import HeadSizes, KVCache
from muster.model.layout import Layout
from tests.examples import examples

PAGE = 4
CPU = torch.device("cpu")


def make_batch(rows: list[tuple[int, int]], seed: int) -> tuple[Batch, int]:
    """Rows of (new tokens, context) over scattered pages; also the number of pages."""
    counts = [-(-context // PAGE) for _, context in rows]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(seed))
    tables = torch.split(order, counts)
    page_tables_RP = torch.zeros(len(rows), max(counts), dtype=torch.int32)
    positions, slots = [], []
    for index, ((new, context), pages) in enumerate(zip(rows, tables, strict=True)):
        page_tables_RP[index, : len(pages)] = pages
        at = torch.arange(context - new, context)
        positions.append(at)
        slots.append(pages[at // PAGE] * PAGE + at % PAGE)
    batch = Batch(
        torch.cat(positions),
        torch.cat(slots),
        page_tables_RP,
        tuple(new for new, _ in rows),
        tuple(context for _, context in rows),
        torch.zeros(0, dtype=torch.long),
    )
    return batch, sum(counts)


def dense_row(q_TND: Tensor, k_LKD: Tensor, v_LKD: Tensor, window: int | None) -> Tensor:
    """One row by the book."""
    new, heads, _ = q_TND.shape
    context, kv_heads, _ = k_LKD.shape
    query_T1, key_L = torch.arange(context - new, context)[:, None], torch.arange(context)
    visible_TL = (key_L <= query_T1) & (key_L > query_T1 - (window or context))
    k_NLD, v_NLD = (x.repeat_interleave(heads // kv_heads, 1).transpose(0, 1) for x in (k_LKD, v_LKD))
    return scaled_dot_product_attention(q_TND.transpose(0, 1), k_NLD, v_NLD, attn_mask=visible_TL).transpose(0, 1)


row = st.integers(1, 40).flatmap(lambda context: st.tuples(st.just(1) | st.integers(1, context), st.just(context)))


@examples(60)
@given(
    rows=st.lists(row, min_size=1, max_size=9),
    window=st.none() | st.integers(1, 12),
    seed=st.integers(0, 99),
    group_keys=st.sampled_from([1, 64, 10**6]),
)
def test_any_mix_of_rows_attends_as_each_row_alone(
    rows: list[tuple[int, int]], window: int | None, seed: int, group_keys: int
) -> None:
    batch, num_pages = make_batch(rows, seed)
    generator = torch.Generator().manual_seed(seed)
    sizes = HeadSizes(num_heads=2, key_size=5, value_size=3)
    cache = KVCache([sizes], num_pages, PAGE, torch.float32, CPU)
    keys, values = cache.layer(0)
    full = [
        (torch.randn(context, 2, 5, generator=generator), torch.randn(context, 2, 3, generator=generator))
        for _, context in rows
    ]
    for (_, context), pages, (k_LKD, v_LKD) in zip(rows, batch.page_tables_RP, full, strict=True):
        at = torch.arange(context)
        keys[pages[at // PAGE].long(), at % PAGE] = k_LKD
        values[pages[at // PAGE].long(), at % PAGE] = v_LKD
    new_k, new_v = (
        torch.cat([part[side][context - new :] for (new, context), part in zip(rows, full, strict=True)])
        for side in (0, 1)
    )
    keys.flatten(0, 1)[batch.slots_T] = torch.nan  # what is new must come from the call, not from before
    q_TND = torch.randn(len(batch.positions_T), 4, 5, generator=generator)
    backend = SdpaBackend()
    prepared = backend.prepare(batch, cache, torch.float32)
    prepared.layout.keys_per_group = group_keys
    out_TND = backend.attend(prepared, 0, q_TND, new_k, new_v, Options(scale=5**-0.5, window=window))
    parts = torch.split(q_TND, list(batch.query_lengths))
    expected = torch.cat([dense_row(q, k, v, window) for q, (k, v) in zip(parts, full, strict=True)])
    torch.testing.assert_close(out_TND, expected, rtol=1e-5, atol=1e-5)


def test_an_overflow_in_one_sequence_does_not_reach_another() -> None:
    batch, num_pages = make_batch([(1, 20), (1, 30)], seed=2)
    assert 0 in batch.page_tables_RP[1]  # the page that pads page tables is not the first row's own
    cache = KVCache([HeadSizes(1, 2, 2)], num_pages, PAGE, torch.float32, CPU)
    _, values = cache.layer(0)
    values.fill_(torch.inf)
    values[batch.page_tables_RP[0, :5].long()] = 1.0
    backend = SdpaBackend()
    prepared = backend.prepare(batch, cache, torch.float32)
    prepared.layout.keys_per_group = 10**6
    assert len(prepared.layout.decode_rows(None).groups) == 1  # padded to each other
    ones = torch.ones(2, 1, 2)
    out_TND = backend.attend(prepared, 0, ones, ones, ones, Options(scale=1.0))
    assert torch.isfinite(out_TND[0]).all()


def test_a_window_reads_only_the_pages_that_it_touches() -> None:
    batch, _ = make_batch([(1, 400), (2, 400)], seed=0)
    layout = Layout(batch, PAGE, torch.float32, keys_per_group=10**6)
    assert len(layout.decode_rows(6).groups[0].pages) <= 3
    pages = layout.prefill_rows(6)[0].pages_P
    assert pages is not None
    assert len(pages) <= 3
    assert len(layout.decode_rows(None).groups[0].pages) == 100


def test_rows_of_very_different_length_are_not_padded_to_each_other() -> None:
    batch, _ = make_batch([(1, 400), (1, 8), (1, 380), (1, 6)], seed=0)
    groups = Layout(batch, PAGE, torch.float32, keys_per_group=10**6).decode_rows(None).groups
    assert [group.stop - group.start for group in groups] == [2, 2]


def test_pages_are_copied_in_every_layer() -> None:
    cache = KVCache([HeadSizes(1, 2, 3), HeadSizes(2, 1, 1)], 4, PAGE, torch.float32, CPU)
    for layer in (0, 1):
        for tensor in cache.layer(layer):
            tensor[0], tensor[1] = 1.0, 2.0
    cache.copy_pages([(0, 2), (1, 3)])
    cache.copy_pages([])
    for layer in (0, 1):
        for tensor in cache.layer(layer):
            assert (tensor[2] == 1.0).all()
            assert (tensor[3] == 2.0).all()
    assert cache.nbytes == 4 * PAGE * 4 * (5 + 4)
