"""The stack itself: it starts, answers, and is brought up to date."""

from lib import migrate
from lib import stack as parts_of_stack
from lib.settings import Settings


def test_every_embedded_part_runs_and_a_second_start_is_harmless(stack: Settings) -> None:
    before = parts_of_stack.status(stack)
    parts_of_stack.up(stack)
    after = parts_of_stack.status(stack)
    running = {name: row["pid"] for name, row in after.items() if row["state"] == "RUNNING"}
    assert set(running) == {"kafka", "realtime", "warehouse", "spark-speed", "spark-batch"}
    assert running == {name: before[name]["pid"] for name in running}


def test_applying_the_migrations_again_does_nothing(stack: Settings) -> None:
    assert migrate.migrate(stack, "realtime") == []
    assert migrate.migrate(stack, "warehouse") == []
