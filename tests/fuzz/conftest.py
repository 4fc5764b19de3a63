"""A stack of its own: the fuzzer accounts for everything that Kafka and the databases hold."""

import random
import shutil
import sys
from pathlib import Path

import pytest

STACK = Path(__file__).resolve().parents[1] / "stack"
sys.path.insert(0, str(STACK))

from tests.stack.conftest import FOLDER, schedule, soak, stack  # noqa: E402, F401


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed that was asked for; else 1, or a fresh one for the long form."""
    asked = request.config.getoption("seed")
    if asked is None:
        return random.SystemRandom().randrange(10**9) if request.config.getoption("soak") else 1
    return int(asked)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beside the tests of the stack there is no second one."""
    if any(STACK in item.path.parents for item in items):
        for item in items:
            if "stack" in getattr(item, "fixturenames", ()) and STACK not in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs a stack of its own: `pytest tests/fuzz` by itself"))


def pytest_unconfigure() -> None:
    """Tests that need no stack leave no folder for one behind."""
    shutil.rmtree(FOLDER, ignore_errors=True)
