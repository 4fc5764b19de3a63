"""The toolkit of a load; it knows no table by name. Notebooks say `from lib import warehouse`, and `warehouse.begin`."""

from lib.warehouse.load import Load, begin
from lib.warehouse.read import exact_sum

__all__ = ["Load", "begin", "exact_sum"]
