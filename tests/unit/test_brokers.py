"""Kafka's addresses as people write them, and as every client reads them."""

import re
import socket
from contextlib import closing

import pytest
from kafka.cluster import get_ip_port_afi

from lib import brokers


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("broker:9092", "broker:9092"),
        ("broker", "broker:9092"),
        ("[::1]:9094", "[::1]:9094"),
        ("[::1]", "[::1]:9092"),
        ("::1", "[::1]:9092"),
        ("[2001:DB8::7]:19092", "[2001:db8::7]:19092"),
        (" one:9092 , two.example.org:9093 ,[::1]:9094, ", "one:9092,two.example.org:9093,[::1]:9094"),
        ("127.0.0.1:9092,my_broker-2:1", "127.0.0.1:9092,my_broker-2:1"),
    ],
)
def test_addresses_are_read_as_they_are_written_elsewhere(given: str, read: str) -> None:
    assert brokers.normalised(given) == read
    # and Kafka's client for Python takes them for the same
    assert [get_ip_port_afi(part)[:2] for part in read.split(",")] == brokers.addresses(given)


@pytest.mark.parametrize(
    "wrong",
    [
        *("", " , ", "broker:", "broker:0", "broker:65536", "broker:many", "broker:９０９２"),
        *("PLAINTEXT://broker:9092", "one:9092;two:9092", "a b:9092"),
        *("[::1", "::1]:9092", "[broker]:9092", "[::1:2:3:4:5:6:7:8]:9092"),
    ],
)
def test_what_is_no_address_is_named(wrong: str) -> None:
    part = re.escape(repr(wrong)) if "," not in wrong else "names no broker"
    with pytest.raises(ValueError, match=part):
        brokers.addresses(wrong)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_one_broker_that_takes_connections_is_enough(family: socket.AddressFamily, host: str) -> None:
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no {host} ({error})")
    with closing(server), closing(socket.create_server(("127.0.0.1", 0))) as other:
        nobody = other.getsockname()[1]
        other.close()
        there = f"[{host}]" if ":" in host else host
        address = f"{there}:{server.getsockname()[1]}"
        assert brokers.reach(f"127.0.0.1:{nobody}, {address}", seconds=5) == address
        with pytest.raises(ConnectionRefusedError):
            brokers.reach(f"127.0.0.1:{nobody}", seconds=5)
