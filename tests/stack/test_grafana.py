"""Grafana's queries over the warehouse after the story, as the user that Grafana logs in as."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import line as telling
import pytest
from psycopg2.extensions import connection as Connection

from lib import servers
from lib.settings import READER, Settings
from serving.grafana import queries as grafana

QUERIES = {place: (board, panel, target) for place, board, panel, target in grafana.queries()}
CHOICES = {place: (board, variable) for place, board, variable in grafana.choices()}
Rows = list[tuple[Any, ...]]


class Grafana:
    """What Grafana does with a query: expand it, and send it as the reader."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        # the story begins in September 2025, and ends now
        now = datetime.now(UTC)
        self.request = grafana.Request(datetime(2025, 9, 1, tzinfo=UTC), now + timedelta(minutes=5), interval="1h")

    def ask(self, text: str, board: grafana.Json, **chosen: list[str]) -> tuple[list[str], Rows]:
        """The names of the columns, and the rows."""
        statement = grafana.expanded(text, board, replace(self.request, chosen=chosen))
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(statement)
            return [column.name for column in cursor.description], cursor.fetchall()


@pytest.fixture(scope="module")
def client(line: telling.Line, stack: Settings) -> Iterator[Grafana]:
    """Grafana's connection, once the story is told."""
    with closing(servers.connect(stack.address("warehouse", reader=True))) as connection:
        assert connection.info.user == READER
        yield Grafana(connection)


@pytest.mark.parametrize("place", QUERIES)
def test_panel_has_data_in_the_columns_that_it_names(client: Grafana, place: str) -> None:
    board, panel, target = QUERIES[place]
    columns, rows = client.ask(target["rawSql"], board)
    assert rows
    assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} <= set(columns)
    assert any(value is not None for row in rows for value in row[target["format"] == "time_series" :])
    if target["format"] == "time_series":
        assert_series(columns, rows)


def assert_series(columns: list[str], rows: Rows) -> None:
    """Grafana wants series in the order of time, and, beside one text that names them, numbers."""
    assert columns[0] == "time"
    times = [row[0] for row in rows]
    assert None not in times and times == sorted(times)
    texts = [place for place, name in enumerate(columns) if isinstance(rows[0][place], str)]
    assert [columns[place] for place in texts] in ([], ["metric"])
    assert len(columns) - len(texts) >= 2


@pytest.mark.parametrize("place", CHOICES)
def test_each_choice_can_be_made(client: Grafana, place: str) -> None:
    board, variable = CHOICES[place]
    _, rows = client.ask(variable["query"], board)
    values = [value for (value,) in rows]
    assert values and all(values)
    for name, text in panels_that_follow(board, variable["name"]).items():
        _, all_rows = client.ask(text, board, **{variable["name"]: values})
        assert all_rows, name
        _, none = client.ask(text, board, **{variable["name"]: ["nobody's"]})
        assert none != all_rows, name


def panels_that_follow(board: grafana.Json, name: str) -> dict[str, str]:
    """The queries of a dashboard in which a variable stands."""
    found = {panel["title"]: target.get("rawSql", "") for panel in grafana.panels(board) for target in panel["targets"]}
    return {title: text for title, text in found.items() if f"${{{name}:" in text}


def test_choice_of_all_values_is_all(client: Grafana) -> None:
    board, _, target = QUERIES["business: Sold in the chosen time"]
    _, countries = client.ask(CHOICES["business: $country"][1]["query"], board)
    chosen = [country for (country,) in countries]
    assert client.ask(target["rawSql"], board) == client.ask(target["rawSql"], board, country=chosen)
    parts = [client.ask(target["rawSql"], board, country=[country])[1][0] for country in chosen]
    whole = client.ask(target["rawSql"], board)[1][0]
    # revenue and pieces add up; orders do, too, as each has one country
    assert [sum(part[place] for part in parts) for place in (0, 1, 3)] == [whole[place] for place in (0, 1, 3)]
