"""The Ray Serve application of a registered model."""
