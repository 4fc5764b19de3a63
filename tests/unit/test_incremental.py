"""What a job has to read: batches after its watermark, and those of the days that aren't settled."""

from datetime import date

from lib.ledger.cuts import Cut, Window, past_window
from lib.schemas import CONTRACTS


def cut(number: int, run_date: date, batch: int) -> Cut:
    """A cut with the same last batch for every table."""
    return Cut(number, run_date, dict.fromkeys(CONTRACTS, batch))


MONDAY, TUESDAY, WEDNESDAY = date(2026, 11, 16), date(2026, 11, 17), date(2026, 11, 18)
FIRST = cut(1, MONDAY, 10)
SECOND = cut(2, TUESDAY, 20)
THIRD = cut(3, TUESDAY, 30)
FOURTH = cut(4, WEDNESDAY, 40)


def test_a_first_load_reads_everything_up_to_the_cut() -> None:
    window = Window(None, SECOND, (FIRST, SECOND))
    assert window.unread("transactions") == (0, 20)
    assert window.open("transactions") == (0, 20)
    assert window.settled_before == date.min


def test_a_later_load_reads_what_came_after_its_watermark() -> None:
    window = Window(THIRD, FOURTH, (FIRST, SECOND, THIRD, FOURTH))
    assert window.unread("cart_events") == (30, 40)
    assert window.settled_before == TUESDAY


def test_the_open_day_is_read_again_from_its_first_batch_on() -> None:
    # the second and third cut have Tuesday open: its events may stand in every batch after the first cut's
    window = Window(THIRD, FOURTH, (FIRST, SECOND, THIRD, FOURTH))
    assert window.open("cart_events") == (10, 40)


def test_the_batch_that_opened_the_open_day_is_that_of_the_first_cut_with_its_run_date() -> None:
    assert Window(THIRD, FOURTH, (FIRST, SECOND, THIRD, FOURTH)).opened("cart_events") == 20
    assert Window(FIRST, SECOND, (FIRST, SECOND)).opened("cart_events") == 10


def test_when_no_day_is_settled_everything_is_open() -> None:
    window = Window(FIRST, SECOND, (FIRST, SECOND))
    assert window.unread("cart_events") == (10, 20)
    assert window.open("cart_events") == (0, 20)


def test_at_its_cut_a_job_has_nothing_unread() -> None:
    after, upto = Window(FOURTH, FOURTH, (THIRD, FOURTH)).unread("transactions")
    assert after == upto == 40


def test_tables_have_batches_of_their_own() -> None:
    before = Cut(1, MONDAY, {"transactions": 1, "product_view_events": 5, "cart_events": 3})
    after = Cut(2, TUESDAY, {"transactions": 1, "product_view_events": 9, "cart_events": 4})
    window = Window(before, after, (before, after))
    assert [window.unread(table) for table in CONTRACTS] == [(1, 1), (5, 9), (3, 4)]


def test_a_run_for_a_past_day_reads_everything_up_to_its_cut() -> None:
    window = past_window(FOURTH, MONDAY)
    assert (window.cut.cut_id, window.cut.run_date) == (FOURTH.cut_id, MONDAY)
    assert window.unread("cart_events") == window.open("cart_events") == (0, 40)
