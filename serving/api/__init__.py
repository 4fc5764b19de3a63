"""The HTTP API over the warehouse's schema `serving`: products, customers, sales, the line itself, and the reports."""
