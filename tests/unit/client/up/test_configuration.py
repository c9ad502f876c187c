"""The children's configuration files: Prometheus', checked by promtool, and MLflow's authentication."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest
import yaml

from rayplane.client.up import configuration, credentials, plan
from rayplane.client.up.state import PlatformState
from rayplane.settings import GatewaySettings, Home

DEPLOY = Path(__file__).parents[4] / "deploy" / "prometheus"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home with 100% space")
    made.path.mkdir()
    return made


def promtool(binary: Path, *arguments: str) -> str:
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_filled_in_configuration(home: Home, promtool_binary: Path) -> None:
    known = credentials.ensure(home)
    path = configuration.write_prometheus(home, gateway_url="http://127.0.0.1:8470", token=known.metrics)
    promtool(promtool_binary, "check", "config", str(path))


def test_the_alert_rules_fire_when_they_should_and_only_then(promtool_binary: Path) -> None:
    promtool(promtool_binary, "test", "rules", str(DEPLOY / "rules_test.yml"))


def test_every_alert_has_a_rule_test() -> None:
    groups = yaml.safe_load((DEPLOY / "rules.yml").read_text())["groups"]
    tests = (DEPLOY / "rules_test.yml").read_text()
    families = ("RayplaneReconcile.*", "RayplaneService.*")
    for rule in (rule for group in groups for rule in group["rules"]):
        name = rule["alert"]
        assert name in tests or any(name.startswith(f[:-2]) and f in tests for f in families), name
        assert {"summary", "description"} <= rule["annotations"].keys()


def test_the_token_goes_to_the_gateway_and_to_no_exporter(home: Home) -> None:
    known = credentials.ensure(home)
    path = configuration.write_prometheus(home, gateway_url="http://127.0.0.1:8470", token=known.metrics)
    jobs = {job["job_name"]: job for job in yaml.safe_load(path.read_text())["scrape_configs"]}
    assert jobs["gateway"]["authorization"]["credentials_file"] == str(known.metrics)
    assert "authorization" not in jobs["ray"]
    for job in jobs.values():
        assert job["http_sd_configs"][0]["url"].startswith("http://127.0.0.1:8470/sd/prometheus?component=")


def test_mlflow_allows_nothing_without_a_role(home: Home) -> None:
    parsed = configparser.ConfigParser()
    parsed.read(configuration.write_mlflow(home))
    assert parsed["mlflow"]["default_permission"] == "NO_PERMISSIONS"
    assert parsed["mlflow"]["database_uri"] == f"sqlite:///{home.mlflow}/auth.db"


def test_no_secret_is_in_a_command_line_and_every_secret_file_is_private(home: Home) -> None:
    known = credentials.ensure(home)
    configuration.write_mlflow(home)
    configuration.write_prometheus(home, gateway_url="http://127.0.0.1:1", token=known.metrics)
    state = PlatformState(
        home=str(home.path),
        gateway_url="http://127.0.0.1:1",
        mlflow_url="http://127.0.0.1:2",
        prometheus_url="http://127.0.0.1:3",
        ports={"gateway": 1, "mlflow": 2, "prometheus": 3},
    )
    settings = GatewaySettings(home=home.path)
    children = plan.children(settings, state, prometheus=Path("/usr/bin/prometheus"))
    files = (known.token, known.metrics, known.mlflow_admin, known.mlflow_key)
    values = [word for path in files for word in path.read_text().split() if word != credentials.MLFLOW_ADMIN]
    assert len(values) == 4
    for child in children:
        assert not any(value in argument for value in values for argument in child.argv)
        assert not any(value in repr(child) for value in values)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_secrets_are_created_once(home: Home) -> None:
    first = credentials.ensure(home).mlflow_password()
    assert credentials.ensure(home).mlflow_password() == first


def test_a_changed_configuration_changes_the_fingerprint_of_a_child(home: Home) -> None:
    known = credentials.ensure(home)
    configuration.write_mlflow(home)
    state = PlatformState(
        home=str(home.path),
        gateway_url="http://127.0.0.1:1",
        mlflow_url="http://127.0.0.1:2",
        prometheus_url="http://127.0.0.1:3",
        ports={"gateway": 1, "mlflow": 2, "prometheus": 3},
    )

    def fingerprint(gateway_url: str) -> str:
        configuration.write_prometheus(home, gateway_url=gateway_url, token=known.metrics)
        settings = GatewaySettings(home=home.path)
        return plan.children(settings, state, prometheus=Path("/usr/bin/prometheus"))[2].fingerprint

    assert fingerprint("http://127.0.0.1:1") == fingerprint("http://127.0.0.1:1")
    assert fingerprint("http://127.0.0.1:1") != fingerprint("http://127.0.0.1:9")
