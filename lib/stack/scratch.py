"""Settings of a throwaway stack, for tests and benchmarks: free ports, new passwords, a folder of its own."""

import secrets
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path

PORTS = (
    *("KAFKA", "KAFKA_CONTROLLER", "REALTIME", "WAREHOUSE", "SPARK_SPEED", "SPARK_BATCH"),
    *("REDIS", "API", "LAB", "METRICS", "PROMETHEUS"),
)
SECRETS = (
    *("REALTIME_PASSWORD", "WAREHOUSE_PASSWORD", "ADMIN_PASSWORD", "READER_PASSWORD", "REDIS_PASSWORD"),
    *("SPARK_TOKEN", "LAB_TOKEN", "API_KEY"),
)


def folder(name: str) -> Path:
    """A new temporary folder with a space in its name, open to the user that runs PostgreSQL when we are root."""
    path = Path(tempfile.mkdtemp(prefix=f"globalmart {name} "))
    path.chmod(0o755)
    return path


def environment(home: Path) -> dict[str, str]:
    """The `GM_*` variables of a stack below `home`; to be set before anything reads the settings."""
    return (
        {f"GM_{name}_PORT": str(port) for name, port in zip(PORTS, _free_ports(len(PORTS)), strict=True)}
        | {f"GM_{name}": secrets.token_hex(8) for name in SECRETS}
        | {"GM_DATA_DIR": str(home / "data"), "GM_RUNS_DIR": str(home / "runs")}
    )


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
