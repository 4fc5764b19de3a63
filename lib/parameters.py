"""Parameters given to a notebook, checked against those that it declares."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import yaml

from lib.jobs import Job, JobError

RESERVED = {
    "run_date": "the logical day is given with --run-date",
    "cut": "a cycle opens its own cut; --resume takes over that of another",
}

TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "list": (list,),
    "dict": (dict,),
    "None": (type(None),),
}


def parse(pairs: Iterable[str]) -> dict[str, Any]:
    """The values of `name=value` texts, read as YAML; a date stays the text that it is.

    Raises
    ------
    JobError
        For a text of another form.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise JobError(f"-p {pair}: has to be name=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise JobError(f"-p {pair}: the value isn't YAML") from None
        values[name] = text.strip() if isinstance(value, date) else "" if value is None and not text else value
    return values


def check(job: Job, values: Mapping[str, Any]) -> None:
    """Refuse what the notebook doesn't declare, before a kernel starts: papermill pastes a name into it as code.

    Raises
    ------
    JobError
        Naming the job, the parameter and what it takes.
    """
    for name, value in values.items():
        if name in RESERVED:
            raise JobError(f"-p {name}: {RESERVED[name]}")
        parameter = job.parameters.get(name)
        if parameter is None:
            known = ", ".join(job.parameters) or "none"
            raise JobError(f"{job.name} has no parameter {name}; its parameters: {known}")
        if not _is_a(value, parameter.type):
            raise JobError(f"{job.name}: {name} takes {parameter.type}, not {value!r} ({type(value).__name__})")


def _is_a(value: Any, annotation: str) -> bool:
    names = {part.split("[")[0].strip() for part in annotation.split("|")}
    if isinstance(value, bool):
        return "bool" in names
    return any(isinstance(value, TYPES.get(name, ())) for name in names)
