"""Track Ray Train in MLflow without changes to the training script."""
