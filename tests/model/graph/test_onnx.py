"""ONNX Runtime computes what torch does, where torch is not installed; models from strangers bring nothing along."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from muster.errors import ProtocolViolation, Unsupported
from muster.model.backends.base import StepOptions
from muster.model.backends.onnx_models import OnnxModels, check_model
from muster.model.backends.steps import NumpyOptimizer
from muster.model.graph.capture import capture
from muster.model.graph.joint import pieces
from muster.model.graph.pieces import evenly
from muster.model.graph.program import encode_piece
from tests.model.graph.nets import made
from tests.train.graph.networks import arrays, network

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is not here")
sys.meta_path.insert(0, Blocked())
import msgspec, numpy
from muster.model.backends.base import StepOptions
from muster.model.backends.onnx_models import OnnxModels
from muster.model.backends.onnx_plane import OnnxPlane
from muster.model.graph.program import decode_piece
given = msgspec.msgpack.decode(open(sys.argv[1], "rb").read())
piece = decode_piece(given["piece"])
array = lambda one: numpy.frombuffer(one[2], one[0]).reshape(one[1])
plane = OnnxPlane(OnnxModels(given["forward"], given["backward"]), threads=1)
plane.load(piece, {name: array(one) for name, one in given["weights"].items()})
losses = []
for _ in range(3):
    out = plane.forward(0, {name: array(one) for name, one in given["values"].items()})
    losses.append(float(out[given["loss"]]))
    plane.backward(0, {given["loss"]: numpy.ones((), "float32")})
    plane.step(StepOptions("sgd", learning_rate=0.1, momentum=0.9), {})
assert "torch" not in sys.modules
print(losses)
"""


def test_a_machine_without_torch_trains_a_piece_as_torch_does(tmp_path: Path) -> None:
    from muster.model.backends.onnx_export import onnx_models

    module, batch = made("two branches")
    inputs = batch()
    captured = capture(module, tuple(inputs.values()))
    (piece,) = pieces(captured, evenly(captured, 1))
    models, values = onnx_models(piece), arrays(captured, inputs)
    packed = {key: (str(one.dtype), one.shape, one.tobytes()) for key, one in values.items()}
    weights = {key: one.numpy() for key, one in captured.weights.items()}
    given = {
        "piece": encode_piece(piece),
        "forward": models.forward,
        "backward": models.backward,
        "weights": {key: (str(one.dtype), one.shape, one.tobytes()) for key, one in weights.items()},
        "values": packed,
        "loss": captured.outputs[0],
    }
    (tmp_path / "given").write_bytes(msgspec.msgpack.encode(given))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "given")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    theirs = [float(word) for word in done.stdout.strip("[]\n ").split(",")]
    ours = network(captured, evenly(captured, 1), StepOptions("sgd", learning_rate=0.1, momentum=0.9))
    expected = [float(ours.step([values])[0][captured.outputs[0]]) for _ in range(3)]
    assert theirs == pytest.approx(expected, abs=1e-4)
    assert expected[2] < expected[0]


def test_a_model_that_brings_files_code_or_too_much_is_refused() -> None:
    node = onnx.helper.make_node("Relu", ["a"], ["b"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]

    def model(nodes: list[object], *initializers: object) -> bytes:
        graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], list(initializers))
        made: bytes = onnx.helper.make_model(graph).SerializeToString()
        return made

    assert check_model(model([node])) == {"Relu"}
    outside = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [0.0])
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../etc/passwd")
    for data, said in (
        (model([node], outside), "another file"),
        (model([onnx.helper.make_node("Run", ["a"], ["b"], domain="my.own")]), "not ONNX's own"),
        (b"nothing", "no ONNX model"),
    ):
        with pytest.raises(ProtocolViolation, match=said):
            check_model(data)


def test_what_onnx_has_no_words_for_is_said_before_a_machine_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from muster.model.backends import onnx_export

    module, batch = made("two branches")
    captured = capture(module, tuple(batch().values()))
    (piece,) = pieces(captured, evenly(captured, 1))

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("No ONNX function found for aten.strange")

    monkeypatch.setattr(onnx_export.torch.onnx, "export", refuse)
    with pytest.raises(Unsupported, match=r"aten\.strange.*torch"):
        onnx_export.onnx_models(piece)


def test_without_the_package_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from muster.model.backends.onnx_plane import OnnxPlane

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(Unsupported, match=r"muster\[onnx\]"):
        OnnxPlane(OnnxModels(b"", None))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_in_numpy_are_those_of_torch(optimizer: str) -> None:
    import torch

    from muster.model.backends.torch_plane import _optimizer

    options = StepOptions(optimizer, learning_rate=0.01, weight_decay=0.1)
    theirs = torch.randn(7, requires_grad=True)
    ours = {"w": theirs.detach().numpy().copy()}
    steps, reference = NumpyOptimizer(), _optimizer([theirs], options)
    for _ in range(5):
        theirs.grad = torch.randn(7)
        steps.step(ours, {"w": theirs.grad.numpy()}, options)
        reference.step()
    assert ours["w"] == pytest.approx(theirs.detach().numpy(), abs=1e-6)
