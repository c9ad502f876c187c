"""A client of MLflow does not import Feast, and Feast's plug-in of MLflow works all the same."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import entry_points

from rayplane.runtime import mlflow_plugins

HEADERS = "from mlflow.tracking.request_header.registry import resolve_request_headers"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_client_of_mlflow_does_not_import_feast() -> None:
    code = f"""
    import sys
    import rayplane.runtime
    {HEADERS}
    assert "Authorization" not in resolve_request_headers()
    print("feast" in sys.modules)
    """
    assert run(code) == "False\n"


def test_feast_still_registers_the_plugin() -> None:
    found = [plugin.value for plugin in entry_points(group="mlflow.request_header_provider")]
    assert [value.partition(":")[0] for value in found] == [mlflow_plugins._PLUGIN], "another, or none: look again"


def test_feast_that_is_imported_later_uses_the_plugin_that_mlflow_has() -> None:
    code = f"""
    from rayplane.runtime import feast_import
    {HEADERS}
    resolve_request_headers()
    feast_import.without_type_checks()
    import feast
    from feast.infra.data_sources.mlflow.auth import mlflow_token_scope
    with mlflow_token_scope("a-token"):
        print(resolve_request_headers()["Authorization"])
    from feast.infra.data_sources.mlflow import auth as plugin
    print(plugin.mlflow_token_scope is mlflow_token_scope)
    """
    assert run(code) == "Bearer a-token\nTrue\n"


def test_it_does_nothing_where_feast_is_imported_or_is_not_there() -> None:
    run("import sys; sys.modules['feast'] = 'imported'; import rayplane.runtime; "
        "assert not any(name.startswith('feast.') for name in sys.modules)")  # fmt: skip
    run("import sys; sys.modules['feast'] = None; import rayplane.runtime")
    run("import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; "
        "import importlib.util as u; assert u.find_spec('feast') is None; "
        "from rayplane.runtime.mlflow_plugins import load_without_feast; load_without_feast()")  # fmt: skip
