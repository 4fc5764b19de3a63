"""What is served: the API, and the client for it. Grafana's and Power BI's files stand beside them."""
