"""The local platform: one detached supervisor and its children."""
