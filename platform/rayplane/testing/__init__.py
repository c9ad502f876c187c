"""Fakes and one contract suite per port; never imported by production code."""
