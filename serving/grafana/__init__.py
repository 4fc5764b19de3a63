"""Grafana's data sources and dashboards as code."""
