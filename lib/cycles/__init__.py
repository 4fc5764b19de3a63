"""Jobs over a cut: now, by cron, for past days, all over again."""
