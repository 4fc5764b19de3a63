"""Measurements on a throwaway stack of real parts: `make bench`."""
