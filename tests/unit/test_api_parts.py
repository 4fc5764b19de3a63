"""Parts of the API without databases: cursors, periods, rate limits, and the cache over a real server of the Redis protocol."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from redis import Redis, RedisError

from lib.settings import Settings
from lib.stack import programs
from serving.access import Key, digest
from serving.api import answers, cache
from serving.api.answers import Bucket, _key, _matches, _token
from serving.api.cache import FAILURES, Breaker, Cache, Entry, entry
from serving.api.parameters import Period, decode, encode

# --- cursors and periods


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2), st.text().filter(lambda text: "\0" not in text))
def test_a_cursor_comes_back_as_it_was(amount: Decimal, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    assert decode(encode([amount, name]), Decimal, str) == (amount, name)


@given(st.text(max_size=50) | st.binary(max_size=50).map(lambda raw: raw.decode("latin-1")))
def test_whatever_else_is_no_cursor_is_refused(text: str) -> None:
    try:
        found = decode(text, Decimal, str)
    except HTTPException:
        return  # 422, the only one that it raises
    assert found is not None and len(found) == 2


def test_a_cursor_of_another_list_is_refused() -> None:
    with pytest.raises(HTTPException):
        decode(encode(["1"]), int, str)
    with pytest.raises(HTTPException):
        decode(encode(["x", "y"]), int, str)
    for odd in ("a\0b", "half of a pair \ud800"):
        with pytest.raises(HTTPException):
            decode(encode(["1", odd]), int, str)


def test_a_period_is_the_last_thirty_days_unless_it_says_otherwise() -> None:
    today = datetime.now(UTC).date()
    assert Period().days == (today - timedelta(days=29), today)
    assert Period.model_validate({"from": "2026-01-05"}).days == (date(2026, 1, 5), today)
    assert Period.model_validate({"to": "2026-01-30"}).days == (date(2026, 1, 1), date(2026, 1, 30))
    for wrong in ({"from": "2026-01-02", "to": "2026-01-01"}, {"from": "2000-01-01", "to": "2099-01-01"}):
        with pytest.raises(ValidationError):
            Period.model_validate(wrong)


# --- keys and limits


def test_a_bucket_lets_through_what_a_minute_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(answers.time, "monotonic", lambda: now)
    bucket = Bucket(per_minute=6)
    assert [bucket.take() for _ in range(6)] == [0.0] * 6
    assert bucket.take() == pytest.approx(10)
    now += 9
    assert bucket.take() == pytest.approx(1)
    now += 1
    assert bucket.take() == 0.0 and bucket.take() > 0
    now += 3600
    assert [bucket.take() > 0 for _ in range(7)] == [False] * 6 + [True]


def test_a_key_is_read_as_clients_send_it() -> None:
    assert _token({b"x-api-key": b"one"}) == "one"
    assert _token({b"authorization": b"Bearer  two "}) == "two"
    assert _token({b"authorization": b"Basic bWU6dGhyZWU="}) == "three"
    for wrong in (b"", b"Basic", b"Basic !!", b"Digest x", b"Basic bWU=", b"Bearer", b"\xff\xfe"):
        assert _token({b"authorization": wrong}) == ""


def test_a_key_ends_when_it_says_and_when_it_is_revoked() -> None:
    now = datetime.now(UTC)
    key = Key("k", "c", digest("t"), ("sales",), 1, now)
    assert key.is_valid(now)
    assert not Key("k", "c", digest("t"), ("sales",), 1, now, expires_at=now).is_valid(now)
    assert not Key("k", "c", digest("t"), ("sales",), 1, now, revoked_at=now).is_valid(now)


def test_the_same_question_has_the_same_place_in_the_cache_and_another_one_another() -> None:
    one = _key("/v1/products", b"limit=5&category=A%20B", "v1")
    assert one == _key("/v1/products", b"category=A+B&limit=5", "v1")
    others = [
        _key("/v1/products", b"limit=5&category=A%20B", "v2"),
        _key("/v1/products", b"limit=5", "v1"),
        _key("/v1/products", b"limit=5&category=A%26B", "v1"),
        _key("/v1/products/limit", b"", "v1"),
        _key("/v1/products", b"limit=5&limit=5&category=A%20B", "v1"),
    ]
    assert len({one, *others}) == 6


def test_a_customer_or_product_that_is_called_like_a_route_is_none_of_it() -> None:
    for path in answers.LOADED:
        assert f"{path}_1" not in answers.LOADED and f"{path}/1" not in answers.LOADED
    asked: list[str] = []

    class Versions:
        def current(self, kind: str) -> None:
            asked.append(kind)

    async def work() -> None:
        sent: list[dict[str, object]] = []

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        front = answers.Answers(None, keys=None, cache=None, versions=Versions())  # type: ignore[arg-type]
        for path in ("/v1/customers/rfm", "/v1/customers/rfm_1", "/v1/customers/segments 2", "/v1/products/ranking/x"):
            scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
            await front._kept(scope, None, send, path, {})  # type: ignore[arg-type]

    asyncio.run(work())
    assert asked == ["loaded", "live", "live", "live"]


def test_areas_that_there_are_not_are_counted_as_one() -> None:
    assert [answers._area(path) for path in ("/v1/sales/today", "/v1/x", "/v1/", "/v1/x/y", "/reports/a", "/docs")] == [
        *("sales", "other", "other", "other", "reports", "")
    ]


def test_an_answer_is_matched_by_its_tag() -> None:
    assert _matches(b'"a", W/"b"', b'"b"') and _matches(b"*", b'"x"')
    assert not _matches(b"", b'"a"') and not _matches(b'"b"', b'"a"')


# --- the cache


@dataclass
class Server:
    """A cache's server, as the local stack starts it."""

    config: Settings
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> SecretStr:
        return self.config.redis_url

    def client(self) -> Redis:
        return Redis.from_url(self.address.get_secret_value(), socket_timeout=2)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("REALTIME_PASSWORD", "WAREHOUSE_PASSWORD", "ADMIN_PASSWORD", "SPARK_TOKEN", "READER_PASSWORD"):
        monkeypatch.setenv(f"GM_{name}", "x")
    config = Settings(data_dir=tmp_path / "with a space", redis_port=port, redis_password=SecretStr("se cret/%@"))
    config.data_dir.mkdir()
    process = subprocess.Popen(programs.PROGRAMS["redis"][1](config), stdout=subprocess.DEVNULL)
    running = Server(config, process)
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        try:
            running.client().ping()
            break
        except RedisError:
            time.sleep(0.02)
    yield running
    running.stop()


class Computed:
    """An answer that counts how often it is computed."""

    def __init__(self, body: bytes = b'{"a": 1}', seconds: float = 0.0) -> None:
        self.times, self.body, self.seconds = 0, body, seconds

    async def __call__(self) -> Entry | None:
        self.times += 1
        await asyncio.sleep(self.seconds)
        return entry(self.body, "application/json")


def run(address: SecretStr, work: Callable[[Cache], Awaitable[None]]) -> None:
    async def whole() -> None:
        found = Cache(address)
        try:
            await work(found)
        finally:
            await found.close()

    asyncio.run(whole())


def test_an_answer_is_computed_once_for_a_crowd_in_two_processes(server: Server) -> None:
    computed = Computed(seconds=0.1)

    async def work(one: Cache) -> None:
        other = Cache(server.address)
        found = await asyncio.gather(*(each.get("v:k", computed) for each in (one, other) for _ in range(100)))
        assert {each.body for each in found if each} == {computed.body} and None not in found
        assert computed.times == 1
        assert one.at_hand("v:k") is not None and other.at_hand("v:k") is not None
        await other.close()

    run(server.address, work)


def test_an_answer_outlives_the_process_and_ends_after_a_while(server: Server) -> None:
    computed = Computed(b"x" * 5000)

    async def work(one: Cache) -> None:
        found = await one.get("v:k", computed)
        assert found is not None and len(found.zipped) < 100

    run(server.address, work)
    run(server.address, work)
    assert computed.times == 1


@pytest.mark.parametrize("rubbish", [b"", b"rubbish", b"\x93\xa1", None])
def test_rubbish_in_the_cache_is_computed_anew(server: Server, rubbish: bytes | None) -> None:
    computed = Computed()

    async def work(one: Cache) -> None:
        found = await one.get("v:k", computed)
        assert found is not None
        if rubbish is None:
            spoilt = cache._encode(Entry(b'{"a": 2}', b"", found.media_type, found.digest))
        server.client().set("gm:v:k", rubbish if rubbish is not None else spoilt)
        one.own.clear()
        again = await one.get("v:k", computed)
        assert again is not None
        assert again.body == computed.body and computed.times == 2

    run(server.address, work)


def test_without_a_server_answers_are_computed_and_it_is_left_alone_until_it_is_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "OPEN_SECONDS", 0.2)
    computed = Computed()

    async def work(one: Cache) -> None:
        server.stop()
        for number in range(FAILURES + 3):
            assert await one.get(f"v:{number}", computed) is not None
        assert computed.times == FAILURES + 3 and one.breaker.is_open()
        server.process = subprocess.Popen(programs.PROGRAMS["redis"][1](server.config), stdout=subprocess.DEVNULL)
        ends = time.monotonic() + 10
        number = 100
        while one.breaker.failures and time.monotonic() < ends:
            number += 1
            await one.get(f"v:{number}", computed)
            await asyncio.sleep(0.05)
        assert not one.breaker.failures

    run(server.address, work)


def test_a_slow_server_costs_a_tenth_of_a_second_a_few_times(server: Server) -> None:
    computed = Computed()

    async def work(one: Cache) -> None:
        await one.get("v:first", computed)
        server.process.send_signal(19)
        try:
            for number in range(20):
                assert await one.get(f"v:{number}", computed) is not None
        finally:
            server.process.send_signal(18)
        assert one.breaker.failures >= FAILURES

    run(server.address, work)


def test_without_an_address_the_process_keeps_answers_itself() -> None:
    computed = Computed()

    async def work(one: Cache) -> None:
        for _ in range(3):
            assert await one.get("v:k", computed) is not None
        assert computed.times == 3 and one.at_hand("v:k") is not None

    run(SecretStr(""), work)


def test_what_cannot_be_kept_is_asked_for_by_each(server: Server) -> None:
    async def nothing() -> Entry | None:
        return None

    async def work(one: Cache) -> None:
        assert await asyncio.gather(*(one.get("v:k", nothing) for _ in range(5))) == [None] * 5
        assert one.at_hand("v:k") is None and server.client().get("gm:v:k") is None

    run(server.address, work)


def test_who_goes_away_takes_the_answer_from_nobody(server: Server) -> None:
    computed = Computed(seconds=0.2)

    async def work(one: Cache) -> None:
        first = asyncio.create_task(one.get("v:k", computed))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(one.get("v:k", computed))
        await asyncio.sleep(0.05)
        first.cancel()
        assert (await second) is not None and computed.times == 1

    run(server.address, work)


def test_the_users_rights_end_at_its_own_keys(server: Server) -> None:
    client = server.client()
    for command in (
        ["get", "other"],
        ["keys", "*"],
        ["flushall"],
        ["config", "get", "*"],
        ["acl", "list"],
        ["shutdown"],
    ):
        with pytest.raises(RedisError):
            client.execute_command(*command)
    with pytest.raises(RedisError):
        Redis(port=server.config.redis_port).ping()
    told = " ".join(map(str, server.process.args if isinstance(server.process.args, list) else []))
    assert "se cret" not in told + (server.config.data_dir / "redis" / "valkey.conf").read_text()


def test_a_breaker_lets_one_through_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(cache.time, "monotonic", lambda: now)
    breaker = Breaker()
    for _ in range(FAILURES):
        assert not breaker.is_open()
        breaker.failed()
    assert breaker.is_open()
    now += cache.OPEN_SECONDS + 0.1
    assert [breaker.is_open() for _ in range(3)] == [False, True, True]
    breaker.worked()
    assert not breaker.is_open()
