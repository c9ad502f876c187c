"""The local platform: a detached supervisor of gateway, MLflow and Prometheus, and code to start and stop it."""
