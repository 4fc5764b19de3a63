"""Kafka's addresses as people write them: `host:port`, several with commas, an IPv6 address in brackets."""

import contextlib
import ipaddress
import re
import socket

PORT = 9092
"""Kafka's own, where none is given."""

ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+(?:%[\w.-]+)?)\]|(?P<host>[\w.-]+))(?::(?P<port>\d{1,5}))?", re.ASCII)


def addresses(bootstrap: str) -> list[tuple[str, int]]:
    """Host and port of each broker; an IPv6 address without its brackets, 9092 where no port is given.

    Raises
    ------
    ValueError
        Naming the address that can't be read.
    """
    parts = [part.strip() for part in bootstrap.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"{bootstrap!r} names no broker: give host:port, several with commas")
    return [_address(part) for part in parts]


def _address(text: str) -> tuple[str, int]:
    with contextlib.suppress(ValueError):
        return str(ipaddress.IPv6Address(text)), PORT  # without brackets, and so without a port
    found = ADDRESS.fullmatch(text)
    port = int(found["port"] or PORT) if found else 0
    if found is None or not 0 < port < 65_536:
        raise ValueError(f"{text!r} isn't a broker's address: give host:port, as in broker:9092 or [::1]:9092")
    if found["v6"]:
        try:
            return str(ipaddress.IPv6Address(found["v6"])), port
        except ValueError as error:
            raise ValueError(f"{text!r} isn't a broker's address: {error}") from error
    return found["host"], port


def normalised(bootstrap: str) -> str:
    """The same addresses in the form that every client reads: each with its port, no blanks."""
    return ",".join(_text(*address) for address in addresses(bootstrap))


def _text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reach(bootstrap: str, *, seconds: float) -> str:
    """The first of the addresses that takes a connection; kafka-python would leak a socket for each that refuses one.

    Raises
    ------
    OSError
        That of the last broker, when none does.
    """
    *others, last = addresses(bootstrap)
    for address in others:
        with contextlib.suppress(OSError):
            socket.create_connection(address, timeout=seconds).close()
            return _text(*address)
    socket.create_connection(last, timeout=seconds).close()
    return _text(*last)
