"""Package and judge models."""
