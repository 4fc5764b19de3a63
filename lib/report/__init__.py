"""What people see. Notebooks say `from lib import report`, and have what `lib.report.display` shows and tells.

Whatever else was imported before or after, charts that are made from then on have the project's look.
"""

from lib.report import theme
from lib.report.display import glue, headline, live, show, table

__all__ = ["glue", "headline", "live", "show", "table"]

theme.use_template()
