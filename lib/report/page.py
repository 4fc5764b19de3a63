"""What every page needs: where templates are, how times are written for people, and writing a file whole."""

import uuid
from datetime import UTC, datetime
from pathlib import Path

TEMPLATES = Path(__file__).with_name("templates")


def write_whole(path: Path, text: str) -> None:
    """Write a text to a temporary file and rename it, so that a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        # half of a surrogate pair, which no file can hold, is escaped
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def duration(seconds: float | None) -> str:
    """Seconds for people: `0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def instant(when: datetime | None) -> str:
    """An instant for people, in UTC: `23 Nov 2026, 11:24 UTC`."""
    if when is None:
        return ""
    when = when.astimezone(UTC)
    return f"{when.day} {when:%b %Y, %H:%M} UTC"
