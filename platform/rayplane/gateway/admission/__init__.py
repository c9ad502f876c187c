"""All that may refuse a write. Pure: facts in, verdict out."""
