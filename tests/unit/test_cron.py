"""Cron lines: the minutes of crontab(5), found here one by one, and the lines that it doesn't know."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lib import cron
from lib.cycles.scheduler import Trigger

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
BOUNDS = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
START = datetime(2026, 11, 23, 10, 30, tzinfo=UTC)


def values(text: str, least: int, greatest: int, names: list[str], first: int) -> set[int]:
    """The values of a field, as crontab(5) describes it."""
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        ends = [str(first + names.index(end.lower())) if end.lower() in names else end for end in span.split("-")]
        low, high = (least, greatest) if span == "*" else (int(ends[0]), int(ends[-1]))
        found |= set(range(low, high + 1, int(step or 1)))
    return found


def matcher(line: str) -> Callable[[datetime], bool]:
    """Whether a minute matches a line."""
    minute, hour, day, month, weekday = line.split()
    minutes, hours = values(minute, 0, 59, [], 0), values(hour, 0, 23, [], 0)
    days, months = values(day, 1, 31, [], 0), values(month, 1, 12, MONTHS, 1)
    weekdays = {number % 7 for number in values(weekday, 0, 7, DAYS, 0)}
    together = all if day.startswith("*") or weekday.startswith("*") else any
    return lambda moment: (
        moment.minute in minutes
        and moment.hour in hours
        and moment.month in months
        and together([moment.day in days, moment.isoweekday() % 7 in weekdays])
    )


def minutes(line: str, number: int) -> list[datetime]:
    """The line's next minutes."""
    found = [cron.following(line, START)]
    while len(found) < number:
        assert found[-1]
        found.append(cron.following(line, found[-1]))
    return [moment for moment in found if moment]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 9 * * 0-6", ["11-24 09:00", "11-25 09:00", "11-26 09:00", "11-27 09:00", "11-28 09:00", "11-29 09:00"]),
        ("0 9 * * */2", ["11-24 09:00", "11-26 09:00", "11-28 09:00", "11-29 09:00"]),
        ("0 9 * * 1-5/2", ["11-25 09:00", "11-27 09:00", "11-30 09:00"]),
        ("0 9 1 * 1", ["11-30 09:00", "12-01 09:00", "12-07 09:00"]),
        ("0 9 */2 * 1", ["12-07 09:00", "12-21 09:00"]),
        ("05 09 * * 07", ["11-29 09:05", "12-06 09:05"]),
        ("0 9 * DEC Mon-fri", ["12-01 09:00", "12-02 09:00"]),
        ("0,30 9-10 * * sat,7", ["11-28 09:00", "11-28 09:30", "11-28 10:00", "11-28 10:30", "11-29 09:00"]),
        ("10-40/15 11 * * *", ["11-23 11:10", "11-23 11:25", "11-23 11:40", "11-24 11:10"]),
        ("0 0 * * 5-7", ["11-27 00:00", "11-28 00:00", "11-29 00:00", "12-04 00:00"]),
        ("0 9 1-1/2 * *", ["12-01 09:00", "01-01 09:00"]),
        ("@hourly", ["11-23 11:00", "11-23 12:00"]),
        ("@daily", ["11-24 00:00", "11-25 00:00"]),
        ("@weekly", ["11-29 00:00", "12-06 00:00"]),
    ],
)
def test_a_line_means_what_it_means_to_cron(line: str, expected: list[str]) -> None:
    cron.check(line)
    assert [f"{moment:%m-%d %H:%M}" for moment in minutes(line, len(expected))] == expected


@st.composite
def fields(draw: st.DrawFn, least: int, greatest: int, names: list[str]) -> str:
    """A field of a cron line."""

    def word(number: int) -> str:
        if names and number - least < len(names) and draw(st.booleans()):
            return draw(st.sampled_from([str.lower, str.upper, str.title]))(names[number - least])
        return f"{number:0{draw(st.integers(1, 2))}}"

    def part() -> str:
        step = draw(st.sampled_from(["", "", "/2", "/3", "/07", "/40"]))
        match draw(st.integers(0, 2)):
            case 0:
                return "*" + step
            case 1:
                low, high = sorted(draw(st.tuples(st.integers(least, greatest), st.integers(least, greatest))))
                return f"{word(low)}-{word(high)}{step}"
        return word(draw(st.integers(least, greatest)))

    return ",".join(part() for _ in range(draw(st.integers(1, 2))))


LINES = st.tuples(
    *(fields(low, high, names) for (low, high), names in zip(BOUNDS, [[], [], [], MONTHS, DAYS], strict=True))
).map(" ".join)


def each_minute(start: datetime, days: int) -> Iterator[datetime]:
    """The minutes after a moment."""
    return (start + timedelta(minutes=number) for number in range(1, days * 24 * 60 + 1))


@settings(max_examples=300, phases=[Phase.generate])
@given(line=LINES, offset=st.integers(0, 800))
def test_the_next_minute_is_the_one_that_a_search_minute_by_minute_finds(line: str, offset: int) -> None:
    start = START + timedelta(days=offset, seconds=17)
    expected = next(filter(matcher(line), each_minute(start.replace(second=0), 3)), None)
    found = cron.following(line, start)
    if found is None:
        with pytest.raises(ValueError, match="never comes true"):
            cron.check(line)
    assert found == expected or (expected is None and (found is None or found > start + timedelta(days=3)))
    assert found is None or matcher(line)(found)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0 9 * *", "five fields, not 4"),
        ("0 0 9 * * 1", "five fields, not 6"),
        ("60 9 * * *", "minute `60`: has to be 0 to 59"),
        ("0 24 * * *", "hour `24`"),
        ("0 9 0 * *", "day of month `0`"),
        ("0 9 * 13 *", "month `13`: has to be 1 to 12, or jan to dec"),
        ("0 9 * * 8", "day of week `8`: has to be 0 to 7, or sun to sat"),
        ("0 9 * * monday", "day of week `monday`"),
        ("0 9 * mon *", "month `mon`"),
        ("mon 9 * * *", "minute `mon`"),
        ("5-1 9 * * *", "the range ends before it begins"),
        ("0 9 * * fri-sun", "Sunday at the end of a range is 7"),
        ("*/0 9 * * *", "a step is at least 1"),
        ("5/10 9 * * *", "a step stands behind * or a range, as 5-59/10"),
        ("*/-1 9 * * *", "minute `*/-1`"),
        ("1,,2 9 * * *", "minute ``"),
        ("-5 9 * * *", "minute `-5`"),
        ("*-5 9 * * *", "minute `*-5`"),
        ("1.5 9 * * *", "minute `1.5`"),
        ("1_0 9 * * *", "minute `1_0`"),
        ("٣ 9 * * *", "minute `٣`"),
        ("0 9 L * *", "day of month `L`"),
        ("0 9 LW * *", "day of month `LW`"),
        ("0 9 15W * *", "day of month `15W`"),
        ("0 9 last * *", "day of month `last`"),
        ("0 9 2nd tue *", "day of month `2nd`"),
        ("0 9 ? * 1", "day of month `?`"),
        ("0 9 * * 5L", "day of week `5L`"),
        ("0 9 * * 5#3", "day of week `5#3`"),
        ("0~30 9 * * *", "minute `0~30`"),
        ("0 0 30 2 *", "never comes true"),
        ("0 0 31 2,4,6,9,11 *", "never comes true"),
        ("@reboot", "has to be one of @yearly"),
        ("@Daily", "has to be one of @yearly"),
        ("", "five fields"),
    ],
)
def test_what_cron_does_not_know_is_refused(line: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        cron.check(line)


@pytest.mark.parametrize("line", ["0 0 29 2 *", "0 0 31 4 1", "0 0 30 2 mon"])
def test_a_rare_day_is_none_that_never_comes(line: str) -> None:
    cron.check(line)


def test_the_timer_fires_at_the_minutes_of_the_line_and_misses_none() -> None:
    trigger = Trigger("*/20 9-10 * * 1-5")
    first = trigger.get_next_fire_time(None, START)
    assert first == START.replace(minute=40)
    later = START + timedelta(hours=30)
    due = [first]
    while due[-1] and due[-1] < later:
        due.append(trigger.get_next_fire_time(due[-1], later))
    assert [f"{moment:%d %H:%M}" for moment in due if moment] == [
        *("23 10:40", "24 09:00", "24 09:20", "24 09:40", "24 10:00", "24 10:20", "24 10:40", "25 09:00"),
    ]
    assert all(one < other for one, other in pairwise(moment for moment in due if moment))
    timer = BackgroundScheduler(timezone=UTC)
    timer.start(paused=True)
    planned = timer.add_job(print, trigger).next_run_time
    timer.shutdown()
    assert planned and matcher(trigger.line)(planned)
