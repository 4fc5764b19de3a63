"""A stack for one measurement: own free ports, own data, gone at the end."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lib.settings import Settings, settings
from lib.stack import lifecycle, scratch


@contextmanager
def running(name: str) -> Iterator[Settings]:
    """Settings of a stack that runs for as long as the block; the environment of this process is the stack's."""
    home = scratch.folder(f"bench {name}")
    os.environ.update(scratch.environment(home))
    settings.cache_clear()
    config = settings()
    os.environ["GM_STACK"] = str(config.data_dir)  # so that what we start beside it is metered and swept with it
    config.runs_dir.mkdir(parents=True)
    say(f"{name}: a throwaway stack …")
    try:
        lifecycle.up(config)
        yield config
    finally:
        del os.environ["GM_STACK"]
        lifecycle.down(config)
        shutil.rmtree(home, ignore_errors=True)


def say(text: str) -> None:
    """Tell people how far it is; what is on stdout is the result."""
    print(text, file=sys.stderr, flush=True)
