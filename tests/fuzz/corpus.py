"""Messages that once broke something, each with what it broke: they are sent with every run."""

from dataclasses import dataclass

from tests.fuzz.events import Message


@dataclass(frozen=True)
class Case:
    """Messages that stay a test, and what they once broke."""

    name: str
    broke: str
    messages: tuple[Message, ...]


CASES: tuple[Case, ...] = ()
