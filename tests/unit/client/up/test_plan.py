"""Commands and environments of the children, computed from the settings."""

from __future__ import annotations

from pathlib import Path

from rayplane.client.up import configuration, credentials, plan
from rayplane.client.up.state import PlatformState
from rayplane.settings import GatewaySettings


def test_mlflow_accepts_each_host_name_by_which_clients_reach_it(tmp_path: Path) -> None:
    settings = GatewaySettings(
        home=tmp_path, host="0.0.0.0", public_url="http://plane.test:8470", mlflow_public_url="https://mlflow.test"
    )
    state = PlatformState(
        home=str(tmp_path),
        gateway_url="http://plane.test:8470",
        mlflow_url="https://mlflow.test",
        prometheus_url=None,
        ports={plan.GATEWAY: 8470, plan.MLFLOW: 8471},
        pinned=[],
    )
    credentials.ensure(settings.home_paths)
    configuration.write_mlflow(settings.home_paths)
    gateway, mlflow = plan.children(settings, state, prometheus=None)
    hosts = mlflow.argv[mlflow.argv.index("--allowed-hosts") + 1].split(",")
    assert {"127.0.0.1:8471", "plane.test:8471", "mlflow.test"} <= set(hosts)
    assert mlflow.health == "http://127.0.0.1:8471/health"
    assert gateway.env["RAYPLANE_MLFLOW_URL"] == "https://mlflow.test"
