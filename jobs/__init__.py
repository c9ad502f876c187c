"""Entrypoints of the reference team: flights out of New York in 2013, run as ``python -m jobs.<name>``."""
