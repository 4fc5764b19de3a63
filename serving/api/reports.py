"""The reports: which there are, and the gallery itself, to be read only."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter
from fastapi import Query as QueryParameters
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from serving.api.database import Database
from serving.api.models import Report, Reports
from serving.api.parameters import Query

SHOWN = {".html", ".js", ".css", ".png", ".svg"}
"""What of the folder of runs is served: no notebook, no log."""
POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline';"
    " script-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)
"""Reports bring a stricter policy of their own: with both, only what both allow is done."""


def routes(database: Database, folder: Path) -> APIRouter:
    """The routes below `/v1/reports`."""
    router = APIRouter(prefix="/v1/reports", tags=["reports"])

    @router.get("", summary="Which reports there are")
    async def reports(query: Annotated[Query, QueryParameters()]) -> Reports:
        """The latest good report of each job."""
        rows = await database.rows(
            "select distinct on (job) job, run_date, finished_at from serving.runs"
            " where status = 'done' order by job, finished_at desc"
        )
        found = [
            Report(**row, url=f"/reports/latest/{row['job']}.html")
            for row in rows
            if (folder / "latest" / f"{row['job']}.html").is_file()
        ]
        return Reports(reports=found)

    return router


class Gallery(StaticFiles):
    """The folder of runs, as far as it is for people: pages, and what they are drawn with."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file."""
        name = Path(path)
        if name.suffix not in SHOWN and path not in ("", "."):
            raise HTTPException(404, "only pages are served")
        if any(part.startswith(".") for part in name.parts):
            raise HTTPException(404, "only pages are served")
        response = await super().get_response(path, scope)
        response.headers["content-security-policy"] = POLICY
        response.headers["cache-control"] = "private, no-cache"
        return response
