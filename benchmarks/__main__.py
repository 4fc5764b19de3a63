"""The measurements' command line: `python -m benchmarks [NAME]`."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

for name in [name for name in os.environ if name.startswith("GM_")]:
    del os.environ[name]
os.environ["GM_ENV_FILE"] = os.devnull  # before anything reads the settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Rounds = Annotated[int, typer.Option(min=1, help="Medians are over so many rounds.")]
Seconds = Annotated[int, typer.Option(min=5, help="Length of a measurement.")]
Events = Annotated[int, typer.Option(min=1000, help="Events of the backlog.")]


@app.callback(invoke_without_command=True)
def everything(context: typer.Context) -> None:
    """Measure on throwaway stacks of real parts and print Markdown; without a command all of it but the soak."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is taken down in any case
    if context.invoked_subcommand is None:
        for part in (drain, latency, cycle, serving):
            part()


@app.command()
def drain(rounds: Rounds = 5, events: Events = 1_000_000) -> None:
    """Catching up with a backlog: savers, peers, and PostgreSQL's own limit."""
    from benchmarks import drain as part

    part.show(part.measure(events, rounds), events)


@app.command()
def latency(
    rounds: Rounds = 5,
    seconds: Seconds = 30,
    history: Annotated[str, typer.Option(help="What the batch layer holds, as 200d.")] = "200d",
) -> None:
    """Event to commit and cores: savers at two triggers, beside a batch cycle, and Debezium's sink."""
    from benchmarks import latency as part

    part.show(part.measure(rounds, seconds, history))


@app.command()
def cycle(
    rounds: Rounds = 3,
    events: Annotated[int, typer.Option(min=1000, help="Events of the history.")] = 1_000_000,
    increment: Annotated[int, typer.Option(min=100, help="New events of each cycle.")] = 15_000,
) -> None:
    """Seconds of a batch cycle, per notebook, for an initial load and for increments, and PostgreSQL's own limit."""
    from benchmarks import cycle as part

    part.show(part.measure(events, increment, rounds), events, increment)


@app.command()
def beside(
    other: Annotated[Path, typer.Argument(help="Another checkout that is set up, as that of the commit before.")],
    rounds: Rounds = 5,
    events: Events = 300_000,
    increment: Annotated[int, typer.Option(min=100, help="New events of each cycle.")] = 15_000,
    only: Annotated[list[str] | None, typer.Option(help="drain, or cycle; both if not given.")] = None,
) -> None:
    """Catch-up and batch cycle of this checkout and of another one, in turns: what a change costs."""
    from benchmarks import beside as part

    part.show(part.measure(other.resolve(), events, increment, rounds, only or ["drain", "cycle"]))


@app.command()
def serving(
    rounds: Rounds = 3,
    seconds: Seconds = 10,
    events: Annotated[int, typer.Option(min=1000, help="Events of the history.")] = 1_700_000,
) -> None:
    """The API: CPU, rate and seconds of its answers beside a plain FastAPI, and how late a live figure is."""
    from benchmarks import serving as part

    part.show(part.measure(events, seconds, rounds))


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(min=1, help="Length of the load.")] = 30,
    first: Annotated[float, typer.Option(min=0.5, help="When to look for the first time, in minutes.")] = 5,
    rate: Annotated[int, typer.Option(min=1, help="Events a second.")] = 1000,
) -> None:
    """A long load: what each process holds early and late; exit code 1 when together that grew by more than a tenth."""
    from benchmarks import soak as part

    held = part.measure(minutes, first, rate)
    part.show(held)
    if grown := part.grown(held):
        sys.exit("grown: " + "; ".join(grown))


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
