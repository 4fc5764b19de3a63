"""Run both benchmarks on one throwaway stack and print their tables: event to row, and seconds of a batch cycle."""

import os
import shutil
import subprocess
import sys

from lib import scratch

HOME = scratch.folder("bench")
for name in [name for name in os.environ if name.startswith("GM_")]:
    del os.environ[name]
os.environ.update(scratch.environment(HOME), GM_ENV_FILE=os.devnull)

from benchmarks import cycle, latency  # noqa: E402
from lib import stack  # noqa: E402
from lib.settings import ROOT, settings  # noqa: E402


def main() -> None:
    """Load a history, then measure latency with the batch layer idle and at work, and two cycles."""
    config = settings()
    config.runs_dir.mkdir(parents=True)
    print("a throwaway stack with 200 days of history …", file=sys.stderr, flush=True)
    stack.up(config)
    try:
        latency.keep_commit_times(config)
        generators = [sys.executable, "-m", "generators", "all"]
        subprocess.run([*generators, "--history", "200d"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        cycle.schedule("run", "stream")
        first = cycle.measure()
        stack.up(config, ["savers"])
        live = [*generators, "--rate", "50", "--duration"]
        subprocess.run([*live, "30s"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # to warm up
        latency.show("event to commit, 50 events/s, batch layer idle", latency.measure(live, 60))
        with cycle.running() as following:
            latency.show("event to commit, 50 events/s, batch cycle at work", latency.measure(live, 40))
        cycle.show("seconds of a batch cycle, per notebook", {"initial load": first, "increment": following()})
    finally:
        stack.down(config)
        shutil.rmtree(HOME, ignore_errors=True)


if __name__ == "__main__":
    main()
