"""Tracking of Ray Train without code."""
