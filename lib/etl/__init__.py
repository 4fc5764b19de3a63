"""The star schema, one model a module: what the notebooks in `notebooks/etl` compute."""
