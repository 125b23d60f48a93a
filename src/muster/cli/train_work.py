"""What `muster train` does once its words are understood: prepare, forecast, step by step, checkpoints, the end.

It is the run's clock and its screen; `train/` has neither.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from muster.cli.interruptible import Interrupt, on_interrupt
from muster.cli.options import format_bytes
from muster.cli.output import Announcer, err, plain, show_facts
from muster.cli.train_forecast import check_memory, devices_of, forecast
from muster.cli.waiting import waiting
from muster.spec.forecast import TrainForecast
from muster.spec.training import TrainingRun
from muster.train.metrics import MetricsFile, read_metrics
from muster.train.run import PreparedRun, Running, prepare
from muster.train.step import StepReport

INTERRUPTED = 130
METRICS = "metrics.jsonl"
TOLD_EVERY_S = 5.0
"""Where nobody watches, a line on the page is enough so often."""


def carry_out(run: TrainingRun, folder: Path, as_json: bool) -> None:
    """Paths in the run are relative to `folder`."""
    tell = Announcer(as_json)
    devices = devices_of(run.device, run.stages)
    with waiting("reading the model", as_json) as say:
        prepared = prepare(run, folder, say)
        needed = check_memory(prepared, devices)
        say("measuring this machine")
        prepared.out.mkdir(parents=True, exist_ok=True)
        expected = forecast(prepared, devices, prepared.out)
        running = Running(prepared, devices, say)
    session(prepared, running, expected, sum(needed.values()), tell, as_json)


def session(
    prepared: PreparedRun,
    running: Running,
    expected: TrainForecast | None,
    needed_bytes: int | None,
    tell: Announcer,
    as_json: bool,
) -> None:
    """From the first step to the end, or to Ctrl-C. `needed_bytes` are those on this machine, if it holds layers."""
    _tell_start(prepared, running, expected, needed_bytes, tell)
    work = _Session(running, expected, tell, as_json)
    if work.go():
        _tell_end(work, tell, as_json)
    else:
        done, out = work.running.done, prepared.out
        left = (
            f"Stopped after step {done} of {prepared.run.steps}; the same command goes on from the checkpoint in {out}."
        )
        tell("stopped", left, step=done, out=str(out))
        raise typer.Exit(INTERRUPTED)


@dataclass
class _Session:
    running: Running
    expected: TrainForecast | None
    tell: Announcer
    as_json: bool
    seconds: list[float] = field(default_factory=list)
    """Of each step in this session."""
    last: StepReport | None = None
    judged: dict[str, Any] = field(default_factory=dict)
    """What the last look at the held-out texts found."""

    def go(self) -> bool:
        """Whether the run came to its end. Raises what a step raises, with all of it on disk."""
        metrics = MetricsFile(self.running.prepared.out / METRICS, self.running.done)
        interrupt = Interrupt(lambda words: None, "finishing this step and writing a checkpoint")
        self.running.stop_when(interrupt)
        with on_interrupt(interrupt.press), _Screen(self._run, self.running.done, self.as_json) as screen:
            while self.running.done < self._run.steps and not interrupt():
                self._step(metrics, screen)
                if _due(self.running.done, self._run.evaluate_every):
                    self._judge(metrics)
                if _due(self.running.done, self._run.checkpoint_every):
                    self._save()
            if not _due(self.running.done, self._run.checkpoint_every):
                self._save()
        if self.running.done < self._run.steps:
            return False
        if not _due(self.running.done, self._run.evaluate_every):
            self._judge(metrics)
        self.running.finish()
        _draw(self.running.prepared)
        return True

    @property
    def _run(self) -> TrainingRun:
        return self.running.prepared.run

    @property
    def tokens_per_s(self) -> float:
        """Over the later steps of the session; the first one also warms up."""
        return self._run.batch.sequences * self._run.batch.length / self.step_s if self.seconds else 0.0

    @property
    def step_s(self) -> float:
        return median(self.seconds[1:] or self.seconds)

    def _step(self, metrics: MetricsFile, screen: "_Screen") -> None:
        started, before = perf_counter(), self.running.done
        self.last = report = self.running.step()
        self.seconds.append(perf_counter() - started)
        if report.step <= before:  # machines were lost with what they had
            metrics.go_back(report.step - 1)
        facts: dict[str, Any] = {
            "step": report.step,
            "loss": report.loss,
            "gradient_norm": report.gradient_norm,
            "learning_rate": report.learning_rate,
            "seconds": round(self.seconds[-1], 6),
            **self.running.facts(),
        }
        metrics.add(**facts)
        if self.as_json:
            self.tell("step", **facts)
        screen.show(report, self.tokens_per_s)

    def _judge(self, metrics: MetricsFile) -> None:
        score = self.running.evaluate()
        if score is None:
            return
        bits = self.running.bits_per_byte(score)
        self.judged = {"held_out_loss": score.loss, "held_out_bits_per_byte": bits}
        metrics.add(step=self.running.done, **self.judged)
        self.tell(
            "evaluation",
            f"step {self.running.done}: held-out loss {score.loss:.4f}, {bits:.4f} bits per byte",
            step=self.running.done,
            **self.judged,
        )

    def _save(self) -> None:
        path = self.running.save()
        self.tell("checkpoint", step=self.running.done, path=str(path))


def _draw(prepared: PreparedRun) -> None:
    from muster.draw.curve import draw_curve  # matplotlib takes a while to import
    from muster.draw.render import svg

    lines = read_metrics(prepared.out / METRICS)
    losses, held_out = (
        [(line["step"], line[key]) for line in lines if key in line] for key in ("loss", "held_out_loss")
    )
    (prepared.out / "loss.svg").write_text(svg(draw_curve(f"Training {prepared.run.model}", losses, held_out)))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Screen:
    """A bar where somebody watches, else a line now and then; nothing with `--json`."""

    def __init__(self, run: TrainingRun, done: int, as_json: bool) -> None:
        self._run, self._as_json = run, as_json
        self._told_s = perf_counter()
        watched = not as_json and sys.stderr.isatty()
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=err, transient=True, disable=not watched)
        self._watched = watched
        self._bar = self._bars.add_task("", total=run.steps, completed=done)

    def __enter__(self) -> "_Screen":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, report: StepReport, tokens_per_s: float) -> None:
        words = f"loss {report.loss:.4f}  {tokens_per_s:,.0f} tokens/s"
        self._bars.update(self._bar, completed=report.step, description=words)
        if not self._watched and not self._as_json and perf_counter() - self._told_s > TOLD_EVERY_S:
            self._told_s = perf_counter()
            err.print(plain(f"step {report.step} of {self._run.steps}  {words}"), soft_wrap=True)


def _tell_start(
    prepared: PreparedRun, running: Running, expected: TrainForecast | None, needed_bytes: int | None, tell: Announcer
) -> None:
    run, documents = prepared.run, prepared.documents
    skipped = f", {documents.skipped_lines} broken lines skipped" if documents.skipped_lines else ""
    epochs = run.steps * run.batch.sequences / prepared.corpus.texts
    memory = "" if needed_bytes is None else f", about {format_bytes(needed_bytes)} of memory"
    tell(
        "start",
        f"{run.model}: {documents.count} documents, {len(documents.ids):,} tokens{skipped}; {run.steps} steps are "
        f"{epochs:.2f} epochs{memory}",
        model=run.model,
        documents=documents.count,
        tokens=len(documents.ids),
        skipped_lines=documents.skipped_lines,
        epochs=round(epochs, 4),
        done=running.done,
        needed_bytes=needed_bytes,
        forecast_step_s=None if expected is None else expected.step_s,
        forecast_tokens_per_s=None if expected is None else expected.tokens_per_s,
    )
    if running.done:
        tell("resumed", f"going on after step {running.done}", step=running.done)


def _tell_end(session: _Session, tell: Announcer, as_json: bool) -> None:
    out, expected = session.running.prepared.out, session.expected
    measured: dict[str, Any] = {}
    if session.seconds and session.last is not None:
        measured = {
            "loss": session.last.loss,
            "step_s": session.step_s,
            "tokens_per_s": session.tokens_per_s,
            "forecast_step_s": None if expected is None else expected.step_s,
        }
    tell("done", step=session.running.done, out=str(out), **measured, **session.judged)
    if as_json:
        return
    facts = [("steps", str(session.running.done))]
    if measured:
        beside = "" if expected is None else f" (forecast {expected.step_s:.3g} s)"
        facts.append(("loss", f"{measured['loss']:.4f} in the last step"))
        facts.append(
            ("speed", f"{measured['tokens_per_s']:,.0f} tokens/s, a step in {measured['step_s']:.3g} s{beside}")
        )
    facts.append(("model", f"{out}; serve it with `muster serve {out}`"))
    show_facts(facts)
