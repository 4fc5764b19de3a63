"""Pages as a browser shows them: headless Chromium, with no host to be found."""

import shutil
import subprocess
from pathlib import Path

from bs4 import BeautifulSoup

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


def dump_dom(path: Path, profile: Path) -> BeautifulSoup:
    """The page as it is after its scripts have run; `profile` is a folder for the browser's own files."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return BeautifulSoup(done.stdout.decode(), "html.parser")
