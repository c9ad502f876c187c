"""Explain why an object is not as wanted: facts in, ranked causes with remedies out. Pure."""
