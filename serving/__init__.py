"""Serve applications of the reference team. A plain model needs none: the platform brings its own."""
