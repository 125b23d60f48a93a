"""The verbs of `muster`, and how an error ends: one sentence on stderr and the error's exit code, never a traceback.

Knows nothing of what a verb does.
"""

import os
import sys
from collections.abc import Sequence

import typer

from muster import __version__
from muster.cli import (
    audit,
    calibrate,
    chat,
    demo,
    doctor,
    join,
    keys,
    lab,
    nodes,
    plan,
    private,
    receipts,
    run,
    serve,
    simulate,
    status,
    train,
    tune,
    verify,
    zk,
)
from muster.cli.output import show_error
from muster.cli.usage import UsageError, in_words
from muster.errors import MusterError

INTERRUPTED = 130
"""What shells say of a program that Ctrl-C ended."""
app = typer.Typer(
    name="muster",
    help="Gather mismatched, far-apart machines into one LLM service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("join")(join.join)
app.command("run")(run.run)
app.command("chat")(chat.chat)
app.command("status")(status.status)
app.add_typer(nodes.app, name="nodes")
app.add_typer(keys.app, name="keys")
app.add_typer(plan.app, name="plan")
app.add_typer(private.app, name="private")
app.command("simulate")(simulate.simulate)
app.command("receipts")(receipts.receipts)
app.command("verify")(verify.verify)
app.command("calibrate")(calibrate.calibrate)
app.command("audit")(audit.audit)
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.add_typer(lab.app, name="lab")
app.add_typer(zk.app, name="zk")


def verbs() -> list[str]:
    """Names of all verbs, for the pages and their test."""
    return sorted(typer.main.get_group(app).commands)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"muster {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Gather mismatched, far-apart machines into one LLM service."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = run_command(words)
    if {"torch", "iroh"} & sys.modules.keys():
        # All that matters is closed. What is left is to take these apart and to wait for threads, which takes seconds.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run_command(words: Sequence[str]) -> int:
    """Exit code of the command line `words`."""
    # Others' remarks about a model are no sentences of ours; whatever matters in them ends in an error.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        ended = app(args=list(words), prog_name="muster", standalone_mode=False)
    except UsageError as error:
        return _fail(in_words(error), words)
    except MusterError as error:
        return _fail(error, words)
    except typer.Abort:
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return ended if isinstance(ended, int) else 0


def _fail(error: MusterError, words: Sequence[str]) -> int:
    if str(error):
        show_error(error, as_json="--json" in words)
    return error.exit_code


if __name__ == "__main__":
    main()
