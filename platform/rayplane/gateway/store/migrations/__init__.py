"""Alembic's migrations of the store, in order of their numbers."""
