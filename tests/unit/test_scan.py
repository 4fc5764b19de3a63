"""What stands under `notebooks/` that isn't a notebook as it should be: named in a line each, and in nobody's way."""

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
import tiny_notebooks

from lib.jobs import cells, conventions, discovery
from tests.fuzz import notebooks


def only_problem(folder: Path) -> str:
    """What is said of the one broken notebook beside a healthy one, which is found."""
    tiny_notebooks.write(folder / "etl" / "good.ipynb")
    found, [problem] = discovery.scan(folder)
    assert [job.name for job in found] == ["etl/good"]
    return str(problem)


def test_500_broken_notebooks_are_named_in_a_line_each_and_the_healthy_ones_found(tmp_path: Path) -> None:
    healthy = [f"{folder}/good_{number}" for number in range(5) for folder in ("etl", "explore", "a/b/c")]
    for name in healthy:
        tiny_notebooks.write(tmp_path / f"{name}.ipynb")
    broken = notebooks.write(tmp_path, seed=10, count=500)
    found, problems = discovery.scan(tmp_path)
    assert sorted(job.name for job in found) == sorted(healthy)
    lines = discovery.broken_lines(problems)
    assert {problem.notebook for problem in problems} == set(broken)
    assert len(lines) == len(broken) == 500
    assert [line for line in lines if not line.isprintable() or len(line) > 600] == []
    assert {problem.notebook for problem in conventions.validate(tmp_path)} >= set(broken)


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "explore").mkdir()
    (tmp_path / "explore" / "old.ipynb").symlink_to("nowhere.ipynb")
    assert only_problem(tmp_path) == "explore/old: is a link to what isn't there"


def test_a_folder_that_is_called_like_a_notebook_is_named_and_what_is_in_it_found(tmp_path: Path) -> None:
    tiny_notebooks.write(tmp_path / "x.ipynb" / "inner.ipynb")
    found, [problem] = discovery.scan(tmp_path)
    assert [job.name for job in found] == ["x.ipynb/inner"]
    assert str(problem) == "x: can't be read: is a folder, not a file"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"metadata": {"tags": None}}, "cell 3: `tags` has to be a list of texts"),
        ({"metadata": {"tags": "job"}}, "cell 3: `tags` has to be a list of texts"),
        ({"metadata": {"tags": [1]}}, "cell 3: `tags` has to be a list of texts"),
        ({"metadata": None}, "cell 3: `metadata` has to be a JSON object"),
        ({"source": 7}, "cell 3: `source` has to be a text, or a list of texts"),
        ({"source": [7]}, "cell 3: `source` has to be a text, or a list of texts"),
        ({"source": None}, "cell 3: `source` has to be a text, or a list of texts"),
        ({"cell_type": None}, "cell 3: `cell_type` has to be a text"),
        ({"outputs": None}, "`cells.2.outputs` isn't as the notebook format wants it: None is not of type 'array'"),
    ],
)
def test_a_cell_with_a_part_of_a_wrong_type_is_named(tmp_path: Path, cell: dict[str, object], message: str) -> None:
    document = notebooks.job()
    document["cells"][2] |= cell
    (tmp_path / "explore").mkdir()
    (tmp_path / "explore" / "tour.ipynb").write_text(json.dumps(document))
    assert only_problem(tmp_path) == f"explore/tour: can't be read: {message}"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"nbformat": 3, "worksheets": []}, "its `nbformat` is 3, not 4: open it in JupyterLab and save it"),
        ({"nbformat": 4, "cells": None}, "not a notebook: it has no list of cells"),
        ({"nbformat": 4, "cells": [None]}, "cell 1: isn't a JSON object"),
        ([], "not a notebook: it isn't a JSON object"),
    ],
)
def test_a_document_of_another_form_is_named(tmp_path: Path, document: object, message: str) -> None:
    (tmp_path / "x.ipynb").write_text(json.dumps(document))
    assert only_problem(tmp_path) == f"x: can't be read: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xff", "not UTF-8 (at byte 0)"),
        (b"{", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b"[" * 100_000, "it is nested too deeply, or too large"),
        (b'{"nbformat": "\\ud800"}', "it holds half of a surrogate pair, which is no character"),
    ],
)
def test_a_file_of_other_bytes_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.ipynb").write_bytes(content)
    assert only_problem(tmp_path) == f"x: can't be read: {message}"


def test_a_file_that_is_too_large_is_named_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "MOST_BYTES", 1 << 20)
    (tmp_path / "x.ipynb").write_bytes(b" " * (1 << 20) + b" ")
    assert only_problem(tmp_path) == "x: can't be read: is larger than 1 MiB: clear its outputs"


def test_a_file_that_vanishes_between_listing_and_reading_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_notebooks.write(tmp_path / "etl" / "good.ipynb")
    listed = [*cells.find_notebooks(tmp_path), tmp_path / "etl" / "gone.ipynb", tmp_path / "gone" / "too.ipynb"]
    monkeypatch.setattr(cells, "find_notebooks", lambda folder, unread: listed)
    found, problems = discovery.scan(tmp_path)
    assert ([job.name for job in found], problems) == (["etl/good"], [])


def test_a_folder_that_vanishes_while_it_is_looked_through_is_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_notebooks.write(tmp_path / "etl" / "good.ipynb")
    tiny_notebooks.write(tmp_path / "old" / "x.ipynb")
    scandir = os.scandir

    def vanishing(path: Path) -> object:
        if Path(path).name == "old":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    found, problems = discovery.scan(tmp_path)
    assert ([job.name for job in found], problems) == (["etl/good"], [])


def test_a_folder_that_can_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_notebooks.write(tmp_path / "private" / "x.ipynb")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert only_problem(tmp_path) == "private: the folder can't be read: Permission denied"


def test_an_error_of_the_disk_is_said_of_its_notebook_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tiny_notebooks.write(tmp_path / "etl" / "bad.ipynb")
    opening = os.open

    def failing(path: Path, flags: int, *more: int) -> int:
        if path == bad:
            raise OSError(5, "Input/output error")
        return opening(path, flags, *more)

    monkeypatch.setattr(discovery, "SETTLED_NS", -(10**12))
    with monkeypatch.context() as planted:
        planted.setattr(os, "open", failing)
        assert only_problem(tmp_path) == "etl/bad: can't be read: Input/output error"
    assert [job.name for job in discovery.scan(tmp_path)[0]] == ["etl/bad", "etl/good"]


def test_folders_as_deep_as_a_path_can_be_are_looked_through(tmp_path: Path) -> None:
    tiny_notebooks.write(tmp_path / "etl" / "good.ipynb")
    deep = str(tmp_path)
    for _ in range(1_500):
        deep += "/d"
        os.mkdir(deep)
    Path(deep, "x.ipynb").write_text("{}")
    found, problems = discovery.scan(tmp_path)
    # neither Python nor pytest takes so many folders away
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)
    assert ([job.name for job in found], len(problems)) == (["etl/good"], 1)


def test_a_link_to_a_folder_above_is_no_circle(tmp_path: Path) -> None:
    tiny_notebooks.write(tmp_path / "etl" / "good.ipynb")
    (tmp_path / "etl" / "up").symlink_to(tmp_path)
    assert [job.name for job in discovery.scan(tmp_path)[0]] == ["etl/good"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.ipynb")
    said: list[str] = []
    looking = threading.Thread(target=lambda: said.append(only_problem(tmp_path)), daemon=True)
    looking.start()
    looking.join(timeout=30)
    assert said == ["x: can't be read: is a pipe, not a file"]


def test_yaml_that_grows_without_end_is_refused_before_it_grows(tmp_path: Path) -> None:
    levels = "\n".join(f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 9)}]}}" for n in range(1, 20))
    tiny_notebooks.write(tmp_path / "etl" / "bomb.ipynb", f"l0: &l0 {{a: 1}}\n{levels}\nschedule: batch")
    assert only_problem(tmp_path) == "etl/bomb: cell 1: front matter can't be read: `*name`, an alias, isn't taken"


def test_parameters_that_python_can_not_take_in_are_refused(tmp_path: Path) -> None:
    for number, cell in enumerate(notebooks.PARAMETER_CELLS):
        tiny_notebooks.write(tmp_path / f"p{number}.ipynb", parameters=cell)
    found, problems = discovery.scan(tmp_path)
    assert (found, len(problems)) == ([], len(notebooks.PARAMETER_CELLS))
    assert {problem.cell for problem in problems} == {3}


def test_what_has_changed_is_read_again(tmp_path: Path) -> None:
    path = tiny_notebooks.write(tmp_path / "x.ipynb")
    for _ in range(3):
        assert [job.name for job in discovery.scan(tmp_path)[0]] == ["x"]
        good = path.read_bytes()
        path.write_bytes(b"{")
        assert discovery.scan(tmp_path)[0] == []
        path.write_bytes(good)


def test_a_file_that_stays_as_it_is_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "SETTLED_NS", -(10**12))
    tiny_notebooks.write(tmp_path / "x.ipynb")
    first = discovery.scan(tmp_path)[0]
    monkeypatch.setattr(cells, "read_cells", lambda path: pytest.fail("read again"))
    assert discovery.scan(tmp_path)[0] == first
