"""`schedule.py api-key`: make keys of the API, see which there are, and revoke them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from lib.cli.terminal import clear_errors, output, refuse
from lib.plain import printable
from serving import access
from serving.access import AccessError, Key

app = typer.Typer(no_args_is_help=True, help="Keys of the API: make, list, revoke.")


@app.command()
def create(
    client: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is: a team, a program.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AREA", help=f"What it opens, again for each: {', '.join(access.SCOPES)}; by default all."
        ),
    ] = None,
    days: Annotated[float | None, typer.Option(help="Ends after so many days; by default it doesn't.")] = None,
    per_minute: Annotated[int, typer.Option(help="Requests that it may make in a minute.")] = access.PER_MINUTE,
) -> None:
    """Make a key. It is shown once, on standard output; only its hash is kept."""
    with _clear_errors():
        token, key = access.create(client, scope or access.SCOPES, days=days, per_minute=per_minute)
    ends = f"ends {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "doesn't end"
    typer.echo(
        f"{key.key_id} for {printable(key.client)}: opens {', '.join(key.scopes)}, {key.per_minute} requests a minute, {ends}."
        " Keep it; it can't be shown again:",
        err=True,
    )
    typer.echo(token)


@app.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """All keys, without their secrets."""
    with _clear_errors():
        keys = access.listing()
    if as_json:
        typer.echo(json.dumps([_plain(key) for key in keys], indent=2))
        return
    if not keys:
        typer.echo("there is no key: `schedule.py api-key create NAME` makes one")
        return
    shown = Table("key", "client", "opens", "a minute", "made (UTC)", "state", box=None, header_style="bold")
    for key in keys:
        words = (key.key_id, printable(key.client), ", ".join(key.scopes), str(key.per_minute))
        shown.add_row(*map(Text, (*words, f"{key.created_at.astimezone(UTC):%Y-%m-%d %H:%M}", _state(key))))
    output.print(shown)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="KEY", help="As `list` shows it.")]) -> None:
    """Revoke a key: within two seconds it opens nothing."""
    with _clear_errors():
        done = access.revoke(key_id)
    typer.echo(f"{key_id} is revoked" if done else f"{key_id} was revoked already")


@contextmanager
def _clear_errors() -> Iterator[None]:
    with clear_errors():
        try:
            yield
        except AccessError as error:
            refuse(str(error))


def _state(key: Key) -> str:
    if key.revoked_at:
        return f"revoked {key.revoked_at.astimezone(UTC):%Y-%m-%d %H:%M}"
    if key.expires_at and key.expires_at <= datetime.now(UTC):
        return "has ended"
    return f"until {key.expires_at.astimezone(UTC):%Y-%m-%d %H:%M}" if key.expires_at else "valid"


def _plain(key: Key) -> dict[str, object]:
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at")}
    return {
        "key_id": key.key_id,
        "client": key.client,
        "scopes": list(key.scopes),
        "per_minute": key.per_minute,
        "state": _state(key),
        **{name: at.astimezone(UTC).isoformat() if at else None for name, at in times.items()},
    }
