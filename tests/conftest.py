"""Tests have settings of their own: no `.env`, and no `GM_*` of the machine that they run on."""

import os

from hypothesis import HealthCheck, settings

# how long an example takes depends on what else the machine does
settings.register_profile("globalmart", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("globalmart")

for name in [name for name in os.environ if name.startswith("GM_")]:
    del os.environ[name]
os.environ["GM_ENV_FILE"] = os.devnull


def pytest_addoption(parser):
    """`--soak` runs the long forms too; `--seed` repeats what the fuzzer found."""
    parser.addoption("--soak", action="store_true", help="run the long forms of the tests too")
    parser.addoption("--seed", type=int, help="the seed of the fuzzer's messages")
