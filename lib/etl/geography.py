"""The dimension of countries: one version each, from the day of its first event on."""

from lib.warehouse.scd2 import Dimension

GEOGRAPHY = Dimension(table="dim_geography", key=("country",), type2=())
