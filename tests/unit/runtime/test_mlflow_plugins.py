"""An MLflow client does not import Feast, and Feast's MLflow plug-in works nevertheless."""

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


def test_an_mlflow_client_does_not_import_feast() -> None:
    code = f"""
    import sys
    import rayplane.runtime
    {HEADERS}
    assert "Authorization" not in resolve_request_headers()
    print("feast" in sys.modules)
    """
    assert run(code) == "False\n"


def test_feast_still_registers_the_plugin() -> None:
    values = [plugin.value for plugin in entry_points(group="mlflow.request_header_provider")]
    modules = [value.partition(":")[0] for value in values]
    assert modules == [mlflow_plugins._PLUGIN], "Feast changed its plug-in: adapt mlflow_plugins, or remove it"


def test_feast_imported_later_shares_the_plugin_that_mlflow_loaded() -> None:
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


def test_loading_does_nothing_if_feast_is_imported_already_or_not_installed() -> None:
    run("import sys; sys.modules['feast'] = 'imported'; import rayplane.runtime; "
        "assert not any(name.startswith('feast.') for name in sys.modules)")  # fmt: skip
    run("import sys; sys.modules['feast'] = None; import rayplane.runtime")
    run("import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; "
        "import importlib.util as u; assert u.find_spec('feast') is None; "
        "from rayplane.runtime.mlflow_plugins import load_without_feast; load_without_feast()")  # fmt: skip
