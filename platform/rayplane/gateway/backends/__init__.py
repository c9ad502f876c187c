"""Compute backends, one adapter each."""
