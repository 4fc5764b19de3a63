"""This checkout beside another one, such as that of the commit before: catch-up and batch cycle, in turns.

Each of the two has a stack of its own, kept up all the while, and a process of its own code that waits for what to measure
next (this very file, run with the other checkout's packages). A round asks both, the other way round in every second one,
so that a machine that gets slower does so for both.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import pandas as pd

WARM_UP = 3
"""So often each of them drains the backlog before a round counts."""
DAYS = 200
PACE = 50
"""Events/s of the increments that the cycles load."""


@dataclass(frozen=True)
class Side:
    """One of the two checkouts, and the pipes to its process."""

    name: str
    asking: IO[str]
    answering: IO[str]

    def ask(self, *question: Any) -> dict[str, float]:
        """Let it do something, and wait for what it measured."""
        print(json.dumps(question), file=self.asking, flush=True)
        answer = self.answering.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended; its message is above")
        return dict(json.loads(answer))


def measure(other: Path, events: int, increment: int, rounds: int, kinds: Sequence[str]) -> pd.DataFrame:
    """One row per round, measurement and checkout (`before` is the other one): `value`.

    `kinds` says what is measured: `drain`, `cycle`, or both.
    """
    records = []
    asked = {"drain": [("drain", 10_000), ("drain", 50_000)], "cycle": [("cycle", increment)]}
    for kind in kinds:
        with ExitStack() as sides:
            pair = [sides.enter_context(_side(name, folder)) for name, folder in (("before", other), ("now", _here()))]
            for side in pair:
                side.ask(f"prepare_{kind}", events, increment * (rounds + 1))
            for number in range(rounds):
                for question in asked[kind]:
                    for side in pair if number % 2 else reversed(pair):
                        found = side.ask(*question).items()
                        records += [
                            {"round": number, "what": what, "side": side.name, "value": value} for what, value in found
                        ]
    return pd.DataFrame(records)


def show(records: pd.DataFrame) -> None:
    """Print the medians of both, and the median of the ratios within a round."""
    from benchmarks import figures

    wide = records.pivot(index=["what", "round"], columns="side", values="value")
    wide["now ÷ before"] = wide["now"] / wide["before"]
    ratios = wide.groupby("what", sort=False)["now ÷ before"]
    table = wide.groupby("what", sort=False)[["before", "now", "now ÷ before"]].median().round(3)
    table["lowest–highest ratio"] = [
        f"{low:.3f}–{high:.3f}" for low, high in zip(ratios.min(), ratios.max(), strict=True)
    ]
    figures.show(f"medians of {records['round'].max() + 1} rounds", table.reset_index())


def _here() -> Path:
    return Path(__file__).resolve().parent.parent


@contextmanager
def _side(name: str, folder: Path) -> Iterator[Side]:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    process = subprocess.Popen(
        [str(folder / ".venv" / "bin" / "python"), "-P", __file__],
        **{"cwd": folder, "env": environment, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
    )
    assert process.stdin and process.stdout
    try:
        yield Side(name, process.stdin, process.stdout)
    finally:
        process.stdin.close()  # its stack is taken down then
        process.wait()


# --- within the process of one of them


def main() -> None:
    """Answer questions until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the measured code prints isn't an answer
    with ExitStack() as stack:
        state: dict[str, Any] = {}
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            print(json.dumps(QUESTIONS[name](stack, state, *arguments)), file=answers, flush=True)


def prepare_drain(opened: ExitStack, state: dict[str, Any], events: int, _: int) -> dict[str, float]:
    """A stack with a backlog, and a Spark server that is warm."""
    from benchmarks import drain, throwaway
    from generators.model import Scenario, simulate
    from generators.producer import produce
    from lib.settings import TOPICS
    from lib.stack import lifecycle

    config = opened.enter_context(throwaway.running("beside"))
    lifecycle.stop(config, ["spark-batch", "warehouse"])
    history = timedelta(days=DAYS)
    scenario = Scenario(start=datetime.now(UTC) - history, history=history, events=events)
    sent = produce(simulate(scenario), TOPICS, bootstrap=config.kafka_bootstrap).acknowledged
    state |= {"config": config, "sent": sent}
    for _number in range(WARM_UP):
        drain.run_savers(config, sent, 10_000)
    return {}


def catch_up(_: ExitStack, state: dict[str, Any], cap: int) -> dict[str, float]:
    """Drain the backlog: events/s, and CPU of all parts."""
    from benchmarks import drain

    record = drain.run_savers(state["config"], state["sent"], cap)
    return {f"catch-up at {cap:,}, events/s": record["events/s"], f"catch-up at {cap:,}, CPU s": record["CPU s"]}


def prepare_cycle(opened: ExitStack, state: dict[str, Any], events: int, more: int) -> dict[str, float]:
    """A stack with a history that is loaded, and an increment to warm up."""
    from itertools import islice

    from benchmarks import cycle as cycles
    from benchmarks import history, throwaway
    from generators.model import Scenario, simulate

    opened.enter_context(throwaway.running("beside"))
    live, past = timedelta(seconds=more / PACE), timedelta(days=DAYS)
    start = datetime.now(UTC) - live - past
    state["events"] = simulate(Scenario(start=start, history=past, events=events, rate=PACE, duration=live))
    history.load(islice(state["events"], events))
    state["initial"] = float(cycles.cycle()["cycle_seconds"].iloc[0])
    return {}


def cycle(_: ExitStack, state: dict[str, Any], increment: int) -> dict[str, float]:
    """Load an increment: seconds of its cycle, of its notebooks, and what all of them together spend them on."""
    from itertools import islice

    from benchmarks import cycle as cycles
    from benchmarks import history

    history.load(islice(state["events"], increment))
    runs = cycles.cycle()
    seconds = {"cycle, s": float(runs["cycle_seconds"].iloc[0])}
    seconds |= {f"{name}, s": each for name, each in zip(runs["notebook"], runs["seconds"], strict=True)}
    seconds |= {f"{part} of all notebooks, s": float(runs[part].sum()) for part in cycles.PARTS}
    initial = state.pop("initial", None)
    return seconds if initial is None else {"initial load, s": initial}


QUESTIONS = {"prepare_drain": prepare_drain, "drain": catch_up, "prepare_cycle": prepare_cycle, "cycle": cycle}

if __name__ == "__main__":
    for name in [name for name in os.environ if name.startswith("GM_")]:
        del os.environ[name]
    os.environ["GM_ENV_FILE"] = os.devnull
    main()
