"""Kafka to the realtime database: what the notebooks in `notebooks/ingest` run."""
