"""What is written down in two places says the same in both."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lib.cli import docs
from lib.jobs import discovery
from lib.settings import ROOT, Settings, settings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINUX = {
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "python_version": "3.11",
    "python_full_version": "3.11.7",
    "extra": "",
}


def applies(marker: object) -> bool:
    """Whether a marker holds on Linux with the Python of `environment.yml`."""
    return marker is None or Marker(str(marker)).evaluate(LINUX)


def pip_lines() -> list[str]:
    """The pip section of `environment.yml`."""
    document = yaml.safe_load((ROOT / "environment.yml").read_text())
    return next(entry["pip"] for entry in document["dependencies"] if isinstance(entry, dict))


def environment_pins() -> dict[str, str]:
    """Name and version of each package that pip installs on Linux."""
    requirements = [Requirement(line) for line in pip_lines() if not line.startswith("-")]
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in requirements
        if applies(one.marker)
    }


def lock_pins() -> dict[str, str]:
    """Name and version of what the project needs on Linux, followed through uv.lock."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    project = next(package for package in packages if package["name"] == "globalmart")
    pins: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(project["dependencies"])
    while waiting:
        wanted = waiting.pop()
        if not applies(wanted.get("marker")) or (key := json.dumps(wanted, sort_keys=True)) in seen:
            continue
        seen.add(key)
        package = next(one for one in packages if is_wanted(one, wanted))
        pins[package["name"]] = package["version"]
        waiting += package.get("dependencies", [])
        extras = package.get("optional-dependencies", {})
        waiting += (more for extra in wanted.get("extra", []) for more in extras[extra])
    return pins


def is_wanted(package: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether this entry of the lock is what a dependency means; one with several versions names the version."""
    return package["name"] == wanted["name"] and wanted.get("version", package["version"]) == package["version"]


def commands(pattern: str) -> Iterator[tuple[str, str]]:
    """Page and name of each command that the documentation names in code."""
    for page in PAGES:
        for code in re.findall(r"^```.*?^```|`[^`\n]+`", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            yield from ((page.name, name) for name in re.findall(pattern, code))


def test_conda_environment_has_the_pins_of_the_lock():
    assert environment_pins() == lock_pins()


def test_conda_environment_is_what_make_docs_writes():
    assert (ROOT / "environment.yml").read_text() == docs.environment(docs.locked())


def test_conda_environment_names_the_python_and_java_that_the_project_asks_for():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [entry for entry in dependencies if isinstance(entry, str)] == ["python=3.11", "openjdk=17", "pip"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"


def test_table_of_jobs_in_the_readme_is_that_of_the_notebooks():
    page = (ROOT / "README.md").read_text()
    assert page == docs.with_job_table(page, discovery.job_table(discovery.discover(settings().notebooks_dir)))


def test_table_is_the_same_in_every_process():
    command = [sys.executable, str(ROOT / "schedule.py"), "list", "--markdown"]
    tables = {
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True).stdout
        for seed in ("1", "3", "4")
    }
    assert len(tables) == 1


def test_table_goes_between_its_markers_and_nothing_else_changes():
    start, end = discovery.MARKERS
    page = docs.with_job_table(f"before\n{start}\nold\n{end}\nafter", f"{start}\nnew\n{end}")
    assert page == f"before\n{start}\nnew\n{end}\nafter"


def test_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="substring"):
        docs.with_job_table("no table here", "")


def test_every_setting_is_documented_and_nothing_else_is():
    example = (ROOT / ".env.example").read_text()
    documented = re.findall(r"^(?:# )?(GM_\w+)=", example, flags=re.MULTILINE)
    assert sorted(documented) == sorted(f"GM_{name.upper()}" for name in Settings.model_fields)


def test_documentation_names_only_settings_that_exist():
    known = {f"GM_{name.upper()}" for name in Settings.model_fields} | {"GM_ENV_FILE"}
    named = {name for page in PAGES for name in re.findall(r"\bGM_[A-Z]+(?:_[A-Z]+)*\b(?!_)", page.read_text())}
    assert named <= known


def test_documentation_names_only_targets_of_make_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert [(page, name) for page, name in commands(r"\bmake ([a-z]+)") if name not in targets] == []


def test_documentation_names_only_commands_of_the_scheduler_that_exist():
    from schedule import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert [(page, name) for page, name in commands(r"schedule\.py ([a-z-]+)") if name not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_documentation_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
