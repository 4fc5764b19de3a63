"""`python -m serving.api`: serve until it is told to stop."""

import logging

import psycopg2
import uvicorn

from lib.settings import Settings, required
from serving import access

logger = logging.getLogger(__name__)

GRACE_SECONDS = 3
"""How long an answer that is under way may take when the server stops; streams are cut off then."""


def main() -> None:
    """Serve on `GM_API_HOST` and `GM_API_PORT` with `GM_API_WORKERS` processes."""
    config = required()
    _let_in(config)
    uvicorn.run(
        "serving.api.app:create_app",
        factory=True,
        host=config.api_host,
        port=config.api_port,
        workers=config.api_workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _let_in(config: Settings) -> None:
    """Let the key of `.env` in. Without the warehouse nothing can be answered anyway, and the next start does it."""
    if token := config.api_key.get_secret_value():
        try:
            access.ensure_local(token)
        except psycopg2.Error as error:
            logger.warning("GM_API_KEY isn't let in: %s", " ".join(str(error).split()))


if __name__ == "__main__":
    main()
