from dataclasses import replace

import pytest

from muster.draw.lanes import groups, window
from muster.draw.sheet import Bars, Box, Label, Sheet, text_width
from muster.draw.timeline import draw_timeline
from muster.sim.timeline import Span, link_lane
from tests.draw.plans import Drawn, at_home, hexgen, ring_of_eight, training_spans, worldwide

WIDTH = 700.0


def timeline(drawn: Drawn) -> Sheet:
    return draw_timeline(drawn.plan, drawn.pool, drawn.spans, WIDTH)


def bars(sheet: Sheet, kind: str) -> list[tuple[float, float, float, float]]:
    return [box for mark in sheet.marks if isinstance(mark, Bars) and mark.name == f"bars-{kind}" for box in mark.boxes]


def with_bars(*spans: Span) -> Drawn:
    return replace(at_home(("ada", "bob")), spans=spans)


def test_lanes_stand_in_the_order_of_stages_under_their_pipeline() -> None:
    drawn = worldwide(shift=1)
    said = [text.text for text in timeline(drawn).texts()]
    names = {node.id: node.name for node in drawn.pool.nodes}
    wanted = [names[node] for pipeline in drawn.plan.pipelines for node in pipeline.nodes()]
    assert [text for text in said if text in set(wanted)] == wanted
    assert said.count("Pipeline 3: 8 stages, 6 microbatches a step") == 1


def test_each_stage_of_a_shared_machine_has_a_lane_with_its_own_bars() -> None:
    drawn = hexgen()
    found = groups(drawn.plan, drawn.pool, drawn.spans)
    assert [len(group.lanes) for group in found] == [len(pipeline.stages) for pipeline in drawn.plan.pipelines]
    third = found[2].lanes
    assert [lane.held for lane in third] == [
        "layers 0–29 · dev 4–5",
        "layers 30–59 · dev 6–7",
        "layers 60–79 · dev 0–1",
    ]
    assert all(len(lane.work) == 12 * 3 for lane in third)
    assert sum(len(lane.work) for group in found for lane in group.lanes) == sum(
        " -> " not in span.lane for span in drawn.spans
    )


def test_bars_that_name_only_the_machine_lie_on_its_first_stage() -> None:
    drawn = hexgen()
    lanes = groups(drawn.plan, drawn.pool, [Span("first-48-2", 0, 1, "decode")])[2].lanes
    assert [len(lane.work) for lane in lanes] == [1, 0, 0]


def test_a_bar_is_as_long_as_it_lasts_and_the_rest_of_the_lane_is_idle() -> None:
    sheet = timeline(with_bars(Span("ada", 0, 4, "swap"), Span("bob", 4, 6, "decode"), Span("bob", 9, 10, "decode")))
    (swap,), decode = bars(sheet, "swap"), bars(sheet, "decode")
    assert swap[2] == pytest.approx(2 * decode[0][2], abs=1)
    assert decode[0][0] == pytest.approx(swap[0] + swap[2], abs=1)
    assert decode[0][1] > swap[1]
    bands = [mark for mark in sheet.marks if isinstance(mark, Box)]
    assert len(bands) == 2
    assert all(swap[2] == pytest.approx(0.4 * band.width, abs=1) for band in bands)
    assert [text.text for text in sheet.texts() if "%" in text.text] == ["40%", "30%"]


def test_a_machine_that_only_exchanges_gradients_is_not_busy() -> None:
    sheet = timeline(with_bars(Span("ada", 0, 4, "swap"), Span("ada", 4, 8, "exchange"), Span("bob", 0, 8, "exchange")))
    assert [text.text for text in sheet.texts() if "%" in text.text] == ["50%", "0%"]


def test_what_is_sent_lies_thin_below_what_is_done_meanwhile() -> None:
    sheet = timeline(with_bars(Span("ada", 0, 4, "decode"), Span(link_lane("ada", "bob"), 1, 3, "send")))
    (work,), (sent,) = bars(sheet, "decode"), bars(sheet, "send")
    assert sent[1] >= work[1] + work[3]
    assert sent[3] < work[3] / 2
    assert work[0] < sent[0] < sent[0] + sent[2] < work[0] + work[2]


def test_bars_of_one_lane_that_overlap_lie_above_each_other() -> None:
    sheet = timeline(with_bars(Span("ada", 0, 4, "decode"), Span("ada", 2, 6, "prefill")))
    (first,), (second,) = bars(sheet, "decode"), bars(sheet, "prefill")
    assert second[1] >= first[1] + first[3]


def test_a_name_may_hold_an_arrow() -> None:
    drawn = at_home(("a -> b", "c"))
    lanes = groups(
        drawn.plan, drawn.pool, [Span(link_lane("a -> b", "c"), 0, 1, "send"), Span("a -> b", 0, 1, "decode")]
    )
    assert [(len(lane.work), len(lane.sent)) for lane in lanes[0].lanes] == [(1, 1), (0, 0)]


def test_a_long_run_shows_a_few_rounds_from_its_middle() -> None:
    drawn = ring_of_eight()
    part = window(drawn.plan, groups(drawn.plan, drawn.pool, drawn.spans))
    end_s = max(span.end_s for span in drawn.spans)
    first = [span for span in drawn.spans if span.lane == "l4-1" and part.start_s <= span.start_s < part.end_s]
    assert 0.3 * end_s < part.start_s < part.end_s < 0.9 * end_s
    assert 36 <= len(first) <= 40
    assert part.words.startswith("3 rounds of the ring")


def test_a_run_shorter_than_a_round_is_shown_whole() -> None:
    drawn = with_bars(Span("ada", 0, 1, "decode"), Span("bob", 1, 2, "decode"))
    part = window(drawn.plan, groups(drawn.plan, drawn.pool, drawn.spans))
    assert (part.start_s, part.end_s, part.words) == (0, 2, "the whole run")


def test_of_several_training_steps_the_first_is_shown() -> None:
    drawn = worldwide()
    once = training_spans(drawn.plan, drawn.pool)
    end_s = max(span.end_s for span in once)
    later = [replace(span, start_s=span.start_s + end_s, end_s=span.end_s + end_s) for span in once]
    part = window(drawn.plan, groups(drawn.plan, drawn.pool, [*once, *later]))
    assert part.start_s == 0
    assert part.end_s == pytest.approx(end_s, rel=0.03)


@pytest.mark.parametrize(("length_s", "unit"), [(3e-5, "µs"), (0.02, "ms"), (7.0, "s"), (4000.0, "s")])
def test_the_axis_starts_at_nought_and_says_its_unit(length_s: float, unit: str) -> None:
    ticks = [
        text for text in timeline(with_bars(Span("ada", 5, 5 + length_s, "swap"))).texts() if text.align == "center"
    ]
    assert ticks[0].text == "0"
    assert 4 <= len(ticks) <= 10
    assert all(tick.text.endswith(f" {unit}") for tick in ticks[1:])


def test_numbers_stand_only_in_bars_that_have_room_for_them() -> None:
    sheet = timeline(ring_of_eight())
    boxes = [(box, kind) for kind in ("decode", "prefill") for box in bars(sheet, kind)]
    numbers = [text for text in sheet.texts() if text.text.isdigit() and text.align == "center" and text.text != "0"]
    assert len(numbers) > 50
    for text in numbers:
        assert any(holds(box, text) for box, _ in boxes), text


def holds(box: tuple[float, float, float, float], text: Label) -> bool:
    half = text_width(text.text, text.size) / 2
    return box[0] <= text.x - half and text.x + half <= box[0] + box[2] and box[1] < text.y < box[1] + box[3]


def test_thousands_of_bars_too_thin_to_be_told_apart_are_drawn_as_few() -> None:
    spans = [Span("ada", 0.001 * index, 0.001 * (index + 1), "swap") for index in range(20_000)]
    assert len(bars(timeline(with_bars(*spans)), "swap")) < 50
