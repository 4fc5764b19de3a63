"""The toolkit of a load; it knows no table by name. Notebooks say `from lib import warehouse`, and `warehouse.begin`."""

from lib.warehouse.load import Load, begin

__all__ = ["Load", "begin"]
