import torch

from muster.serve.batch import make_batch
from muster.wire.messages.generate import Row


def test_rows_become_positions_slots_and_tables():
    rows = [Row(0, 5, 3, (4, 9), 1), Row(1, 0, 2, (7,), 0), Row(2, 8, 1, (1, 2, 3), 1)]
    batch = make_batch(rows, 4, torch.device("cpu"))
    assert batch.positions_T.tolist() == [5, 6, 7, 0, 1, 8]
    assert batch.slots_T.tolist() == [37, 38, 39, 28, 29, 12]
    assert batch.page_tables_RP.tolist() == [[4, 9, 0], [7, 0, 0], [1, 2, 3]]
    assert (batch.query_lengths, batch.context_lengths) == ((3, 2, 1), (8, 2, 9))
    assert batch.logits_rows_S.tolist() == [2, 5]
    assert (batch.positions_T.dtype, batch.slots_T.dtype, batch.page_tables_RP.dtype) == (
        torch.int64,
        torch.int64,
        torch.int32,
    )
