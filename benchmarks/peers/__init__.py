"""What one would take instead of our savers, and the limit: measured on the same events, in the same run."""
