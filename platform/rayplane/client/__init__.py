"""The user's machine."""
