"""The commands of `schedule.py`."""
