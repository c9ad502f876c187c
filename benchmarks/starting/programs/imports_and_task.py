"""A job that prints a line, imports the libraries that jobs use, and runs one Ray task."""

print("FIRST", flush=True)

import feast  # noqa: E402, F401
import mlflow  # noqa: E402, F401
import pandas  # noqa: E402, F401
import ray  # noqa: E402
import xgboost  # noqa: E402, F401


@ray.remote
def answer() -> int:
    """Return 42."""
    return 42


ray.init()
assert ray.get(answer.remote()) == 42
