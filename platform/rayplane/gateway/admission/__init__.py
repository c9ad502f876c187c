"""Admission: checks of rights, quota, sizes, versions and secrets that may refuse a request. Pure but for tokens."""
