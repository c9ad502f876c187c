"""Read and publish immutable dataset versions."""
