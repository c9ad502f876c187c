"""The gateway's state in SQL: objects, append-only rows, leadership."""
