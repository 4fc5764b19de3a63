"""The peers' Java artefacts, brought by the Ivy that pyspark ships when a benchmark first asks for them."""

import functools
import hashlib
import shutil
from pathlib import Path

from lib.stack import bootstrap

LIST = Path(__file__).with_name("jars.xml")
FOLDER = bootstrap.TOOLS / "peers"


def folder(conf: str) -> Path:
    """The folder of the jars of a `conf` of `jars.xml`, resolved anew when that list has changed."""
    resolved, listed = FOLDER / "sha256", hashlib.sha256(LIST.read_bytes()).hexdigest()
    if not resolved.exists() or resolved.read_text() != listed:
        shutil.rmtree(FOLDER, ignore_errors=True)
        ivy = next((bootstrap.ROOT / ".venv").glob("lib/python*/site-packages/pyspark/jars/ivy-*.jar"))
        command = [java(), "-jar", str(ivy), "-warn", "-cache", ".tools/ivy", "-ivy", str(LIST)]
        bootstrap.run([*command, "-retrieve", ".tools/peers/[conf]/[artifact]-[revision].[ext]"])
        resolved.write_text(listed)
    return FOLDER / conf


@functools.cache
def java() -> str:
    """The `java` that set-up found."""
    return bootstrap.find_java()
