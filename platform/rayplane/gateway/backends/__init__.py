"""Where compute comes from, one adapter per place."""
