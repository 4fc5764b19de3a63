"""The tables for people: the rules behind the notebooks in `notebooks/analytics`, where the analysis stands."""
