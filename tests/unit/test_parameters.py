"""Values of parameters: read by the declared type, refused in a sentence, and in the notebook as they were given."""

import ast
from pathlib import Path
from typing import Any

import papermill
import pytest
import tiny_notebooks
from hypothesis import given, settings
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from lib.jobs import discovery, parameters
from lib.jobs.cells import Parameter
from lib.jobs.discovery import Job, JobError
from lib.runs.attempt import parameters_for


def declaring(annotation: str, name: str = "p", job: str = "etl/x") -> Job:
    """A job with one parameter of this type."""
    return Job(job, Path("x.ipynb"), "batch", parameters={name: Parameter(name, annotation, None)})


def read(annotation: str, value: Any) -> Any:
    """What the job finds in its parameter."""
    return parameters.read(declaring(annotation), {"p": value})["p"]


TAKEN: list[tuple[str, str, Any]] = [
    *(
        ("float", "1e-3", 0.001),
        ("float", "-.5", -0.5),
        ("float", "2", 2.0),
        ("float", "1.", 1.0),
        ("float", "+1E3", 1e3),
    ),
    *(("int", "12", 12), ("int", "-3", -3), ("int", "+0", 0), ("int", "123456789012345678901", 123456789012345678901)),
    *(("bool", "true", True), ("bool", "False", False)),
    *((text, given, given) for text in ("str", "'str'") for given in ("NO", "0123", "1e3", "null", "true", "1:30", "")),
    *(
        ("str", given, given)
        for given in ("2026-11-01", "a=b", "[a", "{x}", "'q'", '"q"', " a ", "a\nb", "\\n", "é\u2028")
    ),
    *(
        ("Optional[str]", "None", None),
        ("typing.Optional[str]", "null", None),
        ("str | None", "", ""),
        ("None | str", "NO", "NO"),
    ),
    *(
        ("Optional[int]", "4", 4),
        ("Union[int, float]", "1.5", 1.5),
        ("float | int", "1", 1),
        ("str | int", "0123", "0123"),
    ),
    *(("bool | str", "yes", "yes"), ("int | bool", "true", True)),
    *(("Literal['a', 'b']", "b", "b"), ("Literal['NO', 1, None]", "1", 1), ("Literal['NO', 1, None]", "NO", "NO")),
    *(("Optional[Literal['a']]", "None", None), ("Literal['01', 1]", "01", "01")),
    *(("list[str]", "[NO, 0123, 1:30, 'a, b', null]", ["NO", "0123", "1:30", "a, b", "null"]), ("list[str]", "[]", [])),
    *(("list[float]", "[1, 1e-3]", [1.0, 0.001]), ("list[list[int]]", "[[1], []]", [[1], []])),
    *(("list[str | None]", '[None, "None"]', [None, "None"]), ("List[bool]", "[true]", [True])),
    *(("list", "[NO, 0123, 1, 1.5, true, null, '1', [a]]", ["NO", "0123", 1, 1.5, True, None, "1", ["a"]]),),
    *(("dict", "{a: 1, no: [NO], 2: 2026-11-01}", {"a": 1, "no": ["NO"], "2": "2026-11-01"}), ("dict", "{}", {})),
    *(("dict[str, float]", '{"a b": 1}', {"a b": 1.0}), ("Dict[str, Any]", "{a: {b: null}}", {"a": {"b": None}})),
    *(("list[int] | str", "[1]", [1]), ("list[int] | None", "None", None), ("Any", "NO", "NO"), ("Any", "[1]", [1])),
]


@pytest.mark.parametrize(("annotation", "text", "value"), TAKEN)
def test_a_text_is_read_by_the_declared_type(annotation: str, text: str, value: Any) -> None:
    found = read(annotation, text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        *(
            ("float", text)
            for text in ("1:30", "inf", "-inf", "nan", "1e999", "1_000", "1,5", "0x10", "", " 1", "1 ", "٣", "e3")
        ),
        *(
            ("int", text)
            for text in ("1.0", "1e3", "1_000", "0x10", "0o7", "0123", "", "4 ", "1:30", "true", "None", "9" * 5000)
        ),
        *(("bool", text) for text in ("yes", "no", "on", "off", "1", "0", "", "TRUE", "t")),
        *(("Optional[int]", text) for text in ("", "none", "~", "x")),
        *(("Literal['a', 'b']", text) for text in ("c", "A", "", "'a'")),
        *(("list[str]", text) for text in ("a", "", "[a", "{a: 1}", "- a", "&a [*a]", "[[a]]", "None", "[a] b")),
        *(("list[int]", text) for text in ("[1.0]", "['1']", "[yes]", "[1, ]x")),
        *(("dict", text) for text in ("a", "[a]", "{a: 1", "{[a]: 1}", "{[a]}")),
        *(("dict[str, int]", text) for text in ("{a: b}", "{a: '1'}")),
    ],
)
def test_what_the_type_does_not_take_is_refused_with_job_parameter_type_and_value(annotation: str, text: str) -> None:
    with pytest.raises(JobError) as refused:
        read(annotation, text)
    sentence = str(refused.value)
    assert sentence.startswith(f"etl/x: p takes {annotation}") and f", not {text[:100]!r}"[:100] in sentence
    assert len(sentence) < 400 and "\n" not in sentence


def test_the_sentence_says_what_is_taken() -> None:
    with pytest.raises(JobError, match=r"^etl/x: p takes float \(a finite number, as 0\.5 or 1e-3\), not '1:30'$"):
        read("float", "1:30")
    with pytest.raises(JobError, match=r"takes bool \(true or false\), not 'yes'"):
        read("bool", "yes")
    with pytest.raises(JobError, match=r"takes int \| None \(a whole number, as 12 or -3 or None\), not 'x'"):
        read("int | None", "x")


@pytest.mark.parametrize(
    "annotation",
    ["date", "Path", "NoneType", "tuple[int, ...]", "dict[int, str]", "list[int, str]", "f()", "pd.DataFrame"],
)
def test_a_type_that_no_text_can_give_is_named(annotation: str) -> None:
    with pytest.raises(JobError, match=r"^etl/x: p is declared as .*, which -p can't give: declare it as str, int"):
        read(annotation, "1")


@pytest.mark.parametrize(
    ("annotation", "value", "is_taken"),
    [
        *(("float", 0.5, True), ("float", 1, True), ("int", 4, True), ("int", 1.0, False), ("int", True, False)),
        *(
            ("bool", True, True),
            ("bool", 1, False),
            ("str", 4, False),
            ("list[str]", ["NO"], True),
            ("list[str]", "a", False),
        ),
        *(("str | None", None, True), ("float", float("nan"), False)),
    ],
)
def test_a_value_that_is_no_text_has_to_fit_as_it_is(annotation: str, value: Any, is_taken: bool) -> None:
    if is_taken:
        assert read(annotation, value) == value
    elif annotation != "str":
        with pytest.raises(JobError, match="etl/x: p takes"):
            read(annotation, value)


@pytest.mark.parametrize("pair", ["cut", "=4", "a b=4", "import os;x=4"])
def test_a_pair_of_another_form_is_refused(pair: str) -> None:
    with pytest.raises(JobError, match="-p "):
        parameters.parse([pair])


@pytest.mark.parametrize(
    ("name", "message"),
    [("nmae", "etl/x has no parameter nmae; its parameters: p"), ("run_date", "--run-date"), ("cut", "--resume")],
)
def test_a_name_that_is_not_declared_or_is_ours_is_refused(name: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parameters.read(declaring("int"), {name: "1"})


def test_each_of_several_jobs_reads_a_value_by_its_own_type() -> None:
    given = parameters.parse(["p=12", "p=1"])
    kinds = ("int", "float", "str", "bool | str")
    found = [parameters_for(declaring(kind), run_date=None, cut_id=None, given=given)["p"] for kind in kinds]
    assert [(value, type(value)) for value in found] == [(1, int), (1.0, float), ("1", str), ("1", str)]


def in_notebook(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The variables that papermill writes into the notebook, as Python reads them."""
    notebook = papermill.parameterize.parameterize_notebook(papermill.iorw.load_notebook_node(str(path)), values)
    (cell,) = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    return {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(cell.source).body}  # type: ignore


def test_what_is_given_is_what_the_notebook_gets(tmp_path: Path) -> None:
    declared = "\n".join(f"p{number}: {kind} = None" for number, (kind, *_) in enumerate(TAKEN))
    path = tiny_notebooks.write(tmp_path / "etl" / "x.ipynb", parameters=declared)
    [job] = discovery.discover(tmp_path)
    texts = parameters.parse(f"p{number}={text}" for number, (_, text, _) in enumerate(TAKEN))
    found = in_notebook(path, parameters_for(job, run_date=None, cut_id=None, given=texts))
    assert found == {f"p{number}": value for number, (*_, value) in enumerate(TAKEN)}


@settings(max_examples=300)
@given(text=st.text())
def test_any_text_arrives_as_it_is(text: str) -> None:
    line = PythonTranslator.codify({"p": read("str", text)}).splitlines()[-1]
    assert ast.literal_eval(line.removeprefix("p = ")) == text


@settings(max_examples=300)
@given(number=st.floats(allow_nan=False, allow_infinity=False), whole=st.integers())
def test_any_number_arrives_as_it_is(number: float, whole: int) -> None:
    assert read("float", repr(number)) == number and read("int", str(whole)) == whole
    source = PythonTranslator.codify({"p": number, "q": whole})
    assert [ast.literal_eval(line.partition("= ")[2]) for line in source.splitlines()[1:]] == [number, whole]
