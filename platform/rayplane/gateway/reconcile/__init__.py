"""Reconcilers, one module per noun: each drives the noun's objects to their specs."""
