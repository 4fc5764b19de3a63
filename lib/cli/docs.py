"""What is generated of the documentation: `environment.yml`, and the README's table of jobs.

`python -m lib.cli.docs`, which `make docs` calls, writes both; a test fails while one of them is out of date.
"""

import subprocess
from collections.abc import Iterable

from lib.jobs.discovery import MARKERS, discover, job_table
from lib.report.page import write_whole
from lib.settings import ROOT, required

UV = ROOT / ".tools" / "uv" / "bin" / "uv"

ENVIRONMENT = """\
# The packages of uv.lock for conda users, made by `make docs`. conda brings Python and a JDK:
#   conda env create -f environment.yml && conda activate globalmart && make demo
# It has not been resolved by conda where it was made; a test keeps its pins equal to the lock.
name: globalmart
channels:
  - conda-forge
dependencies:
  - python=3.11
  - openjdk=17
  - pip
  - pip:
"""


def main() -> None:
    """Write both files."""
    readme = ROOT / "README.md"
    jobs = job_table(discover(required().notebooks_dir))
    write_whole(readme, with_job_table(readme.read_text(encoding="utf-8"), jobs))
    write_whole(ROOT / "environment.yml", environment(locked()))


def with_job_table(page: str, table: str) -> str:
    """The page with this table between its markers, instead of the one that is there.

    Raises
    ------
    ValueError
        When a marker is missing.
    """
    start, end = (page.index(marker) for marker in MARKERS)
    return page[:start] + table + page[end + len(MARKERS[1]) :]


def environment(requirements: Iterable[str]) -> str:
    """`environment.yml`: Python and a JDK from conda, the requirements and the project itself from pip."""
    quoted = (f'      - "{line}"\n' if ";" in line else f"      - {line}\n" for line in requirements)
    return ENVIRONMENT + "".join(quoted) + "      - --editable .\n"


def locked() -> list[str]:
    """The pins of uv.lock that running the project needs, with their markers; tools for its development are left out."""
    command = [str(UV), "export", "--frozen", "--no-dev", "--no-emit-project", "--no-hashes", "--no-annotate"]
    done = subprocess.run([*command, "--no-header"], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


if __name__ == "__main__":
    main()
