"""The tables for people, one model a module: what the notebooks in `notebooks/analytics` compute."""
