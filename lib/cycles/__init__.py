"""Jobs over a cut: once, by cron, for past days, in a rebuild."""
