"""The scheduler's command line: which notebooks are jobs, how they ran, and running them."""

import typer

from lib.cli import dead_letters, history, hold, jobs
from serving import commands as keys

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(keys.app, name="api-key")
app.command("list")(jobs.list_jobs)
app.command()(jobs.graph)
app.command()(jobs.run)
app.command()(jobs.start)
app.command()(jobs.status)
app.command()(jobs.validate)
app.command()(history.backfill)
app.command()(history.rebuild)
app.command()(hold.hold)
app.command()(hold.release)
app.command()(hold.held)

if __name__ == "__main__":
    app()
