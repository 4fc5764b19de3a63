"""Live events with their schema: `python -m benchmarks.peers.sender RATE 60s`."""

import sys
from datetime import UTC, datetime, timedelta

from benchmarks.backlog import ENVELOPED
from benchmarks.peers.envelope import enveloped
from generators.model import Scenario, simulate
from generators.producer import produce
from lib.settings import settings


def main(rate: float, duration: timedelta) -> None:
    """Send the generators' live events as the generators do, each with its schema."""
    scenario = Scenario(start=datetime.now(UTC), rate=rate, duration=duration)
    events = (event._replace(value=enveloped(event.table, event.value)) for event in simulate(scenario))
    receipt = produce(events, ENVELOPED, bootstrap=settings().kafka_bootstrap)
    if receipt.failed:
        sys.exit(f"{receipt.failed.total()} messages failed, the first with: {receipt.error}")


if __name__ == "__main__":
    main(float(sys.argv[1]), timedelta(seconds=float(sys.argv[2].rstrip("s"))))
