"""The star schema: the rules behind the notebooks in `notebooks/etl`, where the analysis stands."""
