"""Statistics of what is served."""
