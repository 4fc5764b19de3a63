"""What people see. With `from lib import report` a notebook has the functions of `lib.report.display`.

Charts that are made after that import have the project's look, whether plotly was imported before it or after it.
"""

from lib.report import theme
from lib.report.display import glue, headline, live, show, table

__all__ = ["glue", "headline", "live", "show", "table"]

theme.use_template()
