"""Make the secrets of the Compose system: `python3 deploy/make_secrets.py`, with the standard library alone.

Writes files into `deploy/secrets/`, one for each purpose, so that a container sees what it needs and nothing else. Files
that are there already are kept; so it can be called again after an update, which may need a new one.
"""

import hashlib
import os
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "secrets"

RAW = (
    *("admin_password", "realtime_password", "warehouse_password", "reader_password"),
    *("redis_password", "spark_token", "api_key", "lab_token", "grafana_password"),
)
"""Generated values, a file each."""

CACHE_COMMANDS = "-@all +get +set +del +eval +ping +info +dbsize +@connection"
"""All that the API may do in the cache, as in `lib/stack/programs.py`."""


def addresses(raw: dict[str, str]) -> dict[str, str]:
    """The settings that hold a secret, as `lib/settings.py` names them, with the services' names as hosts.

    Spark's token is sent as the header that it is: asked for one as `token=`, the client wants TLS for any host but
    localhost.
    """
    found = {}
    for database in ("realtime", "warehouse"):
        users = {
            "DSN": ("globalmart", raw[f"{database}_password"]),
            "ADMIN_DSN": ("postgres", raw["admin_password"]),
            "READER_DSN": ("globalmart_serving", raw["reader_password"]),
        }
        for kind, (user, password) in users.items():
            found[f"GM_{database.upper()}_{kind}"] = f"postgresql://{user}:{password}@{database}:5432/{database}"
    for layer, port in (("speed", 15002), ("batch", 15003)):
        found[f"GM_SPARK_{layer.upper()}"] = f"sc://spark-{layer}:{port}/;authorization=Bearer%20{raw['spark_token']}"
    found["GM_REDIS_URL"] = f"redis://globalmart:{raw['redis_password']}@redis:6379/0"
    found["GM_SPARK_TOKEN"] = raw["spark_token"]
    found["GM_API_KEY"] = raw["api_key"]
    return found


SPARK = ("GM_SPARK_SPEED", "GM_SPARK_BATCH")
JOBS = ("GM_REALTIME_DSN", "GM_WAREHOUSE_DSN")
READER = ("GM_REALTIME_READER_DSN", "GM_WAREHOUSE_READER_DSN")
FILES = {
    "migrate.env": (*JOBS, *READER, *SPARK, "GM_REALTIME_ADMIN_DSN", "GM_WAREHOUSE_ADMIN_DSN"),
    "jobs.env": (*JOBS, *SPARK),
    "spark.env": (*JOBS, *SPARK, "GM_SPARK_TOKEN"),
    "lab.env": (*JOBS, *SPARK, "GM_API_KEY"),
    "metrics.env": JOBS,
    "api.env": ("GM_WAREHOUSE_DSN", *READER, "GM_REDIS_URL", "GM_API_KEY"),
}
"""Settings of each file that a container reads as `GM_ENV_FILE`."""

UNUSED = {"GM_REALTIME_DSN": "postgresql://unused@realtime:5432/realtime"} | {
    f"GM_SPARK_{layer.upper()}": f"sc://spark-{layer}" for layer in ("speed", "batch")
}
"""Addresses without a secret, where a program needs to be told one and never uses it."""


def contents(raw: dict[str, str]) -> dict[str, str]:
    """What each file holds, beside the generated values."""
    known = addresses(raw)
    files = {
        name: "".join(f"{one}={known[one]}\n" for one in names)
        + "".join(f"{one}={value}\n" for one, value in UNUSED.items() if one not in names)
        for name, names in FILES.items()
    }
    digest = hashlib.sha256(raw["redis_password"].encode()).hexdigest()
    files["redis.acl"] = f"user default off\nuser globalmart on #{digest} ~gm:* {CACHE_COMMANDS}\n"
    # Alertmanager's channel: put the address of your chat's webhook here
    files["webhook_url"] = "http://127.0.0.1:9/no-webhook-is-set"
    return files


def write(folder: Path) -> list[str]:
    """Write what is missing, and return its names.

    The folder is closed to others (0700), and its files can be read by all (0444): each is mounted into containers whose
    users aren't known to this machine.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    written = [name for name in RAW if _write(folder / name, secrets.token_hex(16))]
    raw = {name: (folder / name).read_text() for name in RAW}
    return written + [name for name, text in contents(raw).items() if _write(folder / name, text)]


def _write(path: Path, text: str) -> bool:
    """Write a file whole or not at all; False when it is there already."""
    if path.exists():
        return False
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    # without a line's end, since some programs would take it for a part of the password
    with open(os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o400), "w") as file:
        file.write(text)
    aside.chmod(0o444)
    aside.rename(path)
    return True


if __name__ == "__main__":
    names = write(FOLDER)
    print(f"{len(names)} written to {FOLDER}: {', '.join(names)}" if names else f"all secrets are in {FOLDER} already")
    sys.exit(0)
