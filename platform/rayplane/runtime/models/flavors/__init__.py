"""One module per model library."""
