"""What people see. Notebooks say `from lib import report`, and have what `lib.report.display` shows and tells."""

from lib.report.display import glue, headline, live, show, table

__all__ = ["glue", "headline", "live", "show", "table"]
