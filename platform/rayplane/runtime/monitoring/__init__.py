"""Statistics of served predictions."""
