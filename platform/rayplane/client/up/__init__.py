"""The local platform: a detached supervisor of gateway, MLflow and Prometheus, and what starts and stops it."""
