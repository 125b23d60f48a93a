"""Any network as pieces: gradients are those of torch in one process, wherever it is cut; what cannot be is refused."""

import msgspec
import pytest
import torch
from torch import Tensor, nn

from muster.errors import (
    InvalidRequest,
    ProtocolViolation,
    StepFailed,
    Unsupported,
    UnsupportedModel,
    WeightsInvalid,
)
from muster.model.backends.base import StepOptions
from muster.model.backends.torch_plane import TorchPlane, resolve
from muster.model.graph.capture import capture
from muster.model.graph.estimate import operator_graph
from muster.model.graph.joint import pieces
from muster.model.graph.pieces import evenly
from muster.model.graph.program import GraphProgram, OperatorCall, Reference, decode_piece, encode_piece
from tests.model.graph.nets import CASES, TwoBranches, made
from tests.train.graph.networks import alone, arrays, network, sgd


@pytest.mark.parametrize("name", CASES)
def test_steps_of_a_network_cut_at_four_places_are_those_of_torch_alone(name: str) -> None:
    module, batch = made(name)
    captured = capture(module, tuple(batch().values()))
    cut = network(captured, evenly(captured, 5), sgd(0.05))
    batches = [batch() for _ in range(3)]
    losses, weights = alone(made(name)[0], batches, 0.05)
    for expected, one in zip(losses, batches, strict=True):
        given = cut.step([arrays(captured, one)])
        assert float(given[0][captured.outputs[0]]) == pytest.approx(expected, abs=1e-5)
    ours = cut.weights()
    for key in captured.weights:
        assert ours[key] == pytest.approx(weights[key].numpy(), abs=2e-5), key


def test_a_parameter_in_two_pieces_gets_the_sum_of_both_gradients_and_stays_one() -> None:
    module, batch = made("two branches")
    captured = capture(module, tuple(batch().values()))
    cut = network(captured, evenly(captured, 4), sgd(0.1))
    holders = [side for side in cut.sides if any(one.name == "shared.weight" for one in side.piece.parameters)]
    assert len(holders) > 1
    cut.step([arrays(captured, batch())])
    first, *others = [side.plane.weights()["shared.weight"] for side in holders]
    assert all((first == other).all() for other in others)


def test_microbatches_add_up_to_one_batch() -> None:
    module, batch = made("long skips")
    one, two = batch(), batch()
    whole = {key: torch.cat([one[key], two[key]]) for key in one}
    captured, both = capture(module, tuple(one.values())), capture(made("long skips")[0], tuple(whole.values()))
    cut = network(captured, evenly(captured, 3), sgd(0.1), microbatches=2)
    cut.step([arrays(captured, one), arrays(captured, two)])
    together = network(both, evenly(both, 1), sgd(0.1))
    together.step([arrays(both, whole)])
    for key, value in together.weights().items():
        assert cut.weights()[key] == pytest.approx(value, abs=1e-5)


def test_what_is_computed_again_need_not_be_kept_and_changes_nothing() -> None:
    module, batch = made("long skips")
    captured, inputs = capture(module, tuple(batch().values())), batch()
    kept = network(captured, evenly(captured, 2), sgd(0.1))
    again = network(captured, evenly(captured, 2), sgd(0.1), recompute=True)
    for cut in (kept, again):
        cut.step([arrays(captured, inputs)])
    sizes = [sum(len(side.piece.saved) for side in cut.sides) for cut in (kept, again)]
    assert sizes[1] < sizes[0]
    for key, value in kept.weights().items():
        assert again.weights()[key] == pytest.approx(value, abs=1e-6)


def test_a_planner_reads_what_operators_cost() -> None:
    module, batch = made("two branches")
    graph = operator_graph(capture(module, tuple(batch().values())))
    assert sum(one.parameter_bytes for one in graph.operators) == sum(p.nbytes for p in module.parameters())
    linear = [one.flops for one in graph.operators if one.name.startswith("linear")]
    assert linear == [3 * 2 * 3 * 16 * 16] * len(linear)
    assert len(graph.order) == len(graph.operators)


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Spoils(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        return x.sum()


def test_code_that_depends_on_values_is_refused_with_its_line() -> None:
    with pytest.raises(UnsupportedModel, match=r"test_pieces\.py:\d+ \(if x\.sum\(\) > 0:\)"):
        capture(Decides(), (torch.ones(3),))
    with pytest.raises(UnsupportedModel, match="changes its input"):
        capture(Spoils(), (torch.ones(3),))


def test_cuts_that_make_no_pieces_are_refused() -> None:
    captured = capture(TwoBranches(), (torch.ones(1, 16), torch.ones(1, 16), torch.ones(1, 16)))
    whole = evenly(captured, 2)
    with pytest.raises(InvalidRequest, match="needs"):
        pieces(captured, whole[::-1])
    with pytest.raises(InvalidRequest, match="every operator once"):
        pieces(captured, whole[:1])


def test_a_piece_from_a_stranger_is_data_and_only_known_operators_run() -> None:
    captured = capture(TwoBranches(), (torch.ones(1, 16), torch.ones(1, 16), torch.ones(1, 16)))
    (piece,) = pieces(captured, evenly(captured, 1))
    assert decode_piece(encode_piece(piece)) == piece
    with pytest.raises(ProtocolViolation, match="no piece"):
        decode_piece(encode_piece(piece)[:-9])
    early = msgspec.structs.replace(piece.forward, calls=piece.forward.calls[::-1])
    with pytest.raises(ProtocolViolation, match="not made yet"):
        decode_piece(encode_piece(msgspec.structs.replace(piece, forward=early)))
    calls = (*piece.forward.calls, OperatorCall("x", "aten.from_file.default", ("/etc/passwd",)))
    reads = GraphProgram(piece.forward.inputs, calls, piece.forward.outputs)
    with pytest.raises(Unsupported, match="from_file"):
        TorchPlane().load(msgspec.structs.replace(piece, forward=reads), {})
    for name in ("aten.relu_.default", "aten.rand.default", "prims.add.default", "os.system", "aten.mm.__class__"):
        with pytest.raises(Unsupported):
            resolve(name)
    assert list(OperatorCall("y", "aten.add.Tensor", (Reference("a"), 1)).references()) == ["a"]


def test_weights_and_values_of_another_shape_are_refused() -> None:
    captured = capture(TwoBranches(), (torch.ones(1, 16), torch.ones(1, 16), torch.ones(1, 16)))
    cut = network(captured, evenly(captured, 1), StepOptions())
    (side,) = cut.sides
    good = arrays(captured, {"a": torch.ones(1, 16), "b": torch.ones(1, 16), "goal": torch.ones(1, 16)})
    with pytest.raises(StepFailed, match="float32"):
        side.plane.forward(0, good | {captured.inputs[0]: good[captured.inputs[0]][:, :3]})
    with pytest.raises(StepFailed, match="not finite"):
        side.plane.forward(0, good | {captured.inputs[0]: good[captured.inputs[0]] * float("nan")})
    with pytest.raises(WeightsInvalid, match=r"shared\.weight is missing"):
        side.plane.load(side.piece, {})
