"""What the process of ezkl does: the steps named in a JSON file, each timed. Run by `halo2`, never imported.

Prints one line of JSON: seconds by step, and what the settings say.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    import ezkl

    asked = json.loads(Path(sys.argv[1]).read_text())
    seconds: dict[str, float] = {}
    said: dict[str, Any] = {}
    for step in asked["steps"]:
        started = time.perf_counter()
        said |= STEPS[step](ezkl, asked)
        seconds[step] = time.perf_counter() - started
    print("\n" + json.dumps({"seconds": seconds, **said}), flush=True)


def _settings(ezkl: Any, asked: dict[str, Any]) -> dict[str, Any]:
    arguments = ezkl.PyRunArgs()
    for name, value in asked["arguments"].items():
        setattr(arguments, name, tuple(value) if isinstance(value, list) else value)
    ezkl.gen_settings("network.onnx", "settings.json", py_run_args=arguments)
    return {"settings": json.loads(Path("settings.json").read_text())}


def _calibrate(ezkl: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """ezkl's own choice of scales, tables and rows."""
    ezkl.calibrate_settings("input.json", "network.onnx", "settings.json", "resources", max_logrows=asked["most_k"])
    return {"settings": json.loads(Path("settings.json").read_text())}


def _resize(ezkl: Any, asked: dict[str, Any]) -> dict[str, Any]:
    del ezkl
    settings = json.loads(Path("settings.json").read_text())
    settings["run_args"]["logrows"] = asked["k"]
    if asked.get("lookup_range"):
        settings["run_args"]["lookup_range"] = asked["lookup_range"]
    Path("settings.json").write_text(json.dumps(settings))
    return {"settings": settings}


def _compile(ezkl: Any, asked: dict[str, Any]) -> dict[str, Any]:
    ezkl.compile_circuit("network.onnx", "circuit", "settings.json")
    return {}


def _parameters(ezkl: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Powers of a secret that whoever runs this could keep."""
    path = Path(asked["srs"])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        ezkl.gen_srs(str(partial), asked["k"])
        partial.replace(path)
    return {}


def _keys(ezkl: Any, asked: dict[str, Any]) -> dict[str, Any]:
    ezkl.setup("circuit", "verifying.key", "proving.key", asked["srs"])
    return {name.replace(".", "_") + "_bytes": Path(name).stat().st_size for name in ("verifying.key", "proving.key")}


def _witness(ezkl: Any, asked: dict[str, Any]) -> dict[str, Any]:
    ezkl.gen_witness("input.json", "circuit", "witness.json")
    return {}


def _prove(ezkl: Any, asked: dict[str, Any]) -> dict[str, Any]:
    ezkl.prove("witness.json", "circuit", "proving.key", "proof.json", asked["srs"])
    return {}


def _verify(ezkl: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """ezkl raises for most proofs that do not hold, and panics for some."""
    try:
        holds = bool(ezkl.verify("proof.json", "settings.json", "verifying.key", asked["srs"]))
        return {"holds": holds, "why": "" if holds else "the equations do not hold"}
    except BaseException as error:
        return {"holds": False, "why": str(error)[:200]}


STEPS = {
    "settings": _settings, "calibrate": _calibrate, "resize": _resize, "compile": _compile, "parameters": _parameters,
    "keys": _keys, "witness": _witness, "prove": _prove, "verify": _verify,
}  # fmt: skip

if __name__ == "__main__":
    main()
