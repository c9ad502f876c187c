"""Rules for serveConfigV2, compared with Ray's own schema."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve._private.config import handle_num_replicas_auto
from ray.serve.schema import ServeDeploySchema

from rayplane.gateway.backends.kubernetes.preflight import serve_config

TAKEN = [
    {"applications": [{"import_path": "a:b"}]},
    {"applications": [{"import_path": "a.b.c"}]},
    {"applications": []},
    {"applications": [{"import_path": "a:b", "route_prefix": None}, {"name": "c", "import_path": "c:d"}]},
    {"applications": [{"name": "a", "import_path": "a:b", "route_prefix": "/a"}, {"import_path": "c:d"}]},
    {"applications": [{"import_path": "a:b", "deployments": [{"name": "M", "num_replicas": "auto"}]}]},
    {"applications": [{"import_path": "a:b", "deployments": [{"name": "M", "num_replicas": 1}]}]},
    {
        "applications": [
            {
                "import_path": "a:b",
                "deployments": [{"name": "M", "num_replicas": "auto", "autoscaling_config": {"min_replicas": 100}}],
            }
        ]
    },
    {"proxy_location": "EveryNode", "http_options": {"port": 8000}, "applications": [{"import_path": "a:b"}]},
    {"target_capacity": 50, "applications": [{"import_path": "a:b"}]},
    {"applications": [{"import_path": "a:b", "args": {"x": 1}, "runtime_env": {"env_vars": {"A": "1"}}}]},
]
REFUSED = [
    ({}, "ray.serve-config"),
    ({"applications": {}}, "ray.serve-config"),
    ({"applications": [{"import_path": "a:b"}], "target_capacity": 101}, "ray.serve-config"),
    ({"applications": ["a:b"]}, "ray.serve-application"),
    ({"applications": [{"name": "", "import_path": "a:b"}]}, "ray.serve-application"),
    ({"applications": [{"import_path": "a:b", "port": 9000}]}, "ray.serve-application"),
    ({"applications": [{"import_path": "a:b", "host": "::"}]}, "ray.serve-application"),
    ({"applications": [{"import_path": "a:b", "deployments": {}}]}, "ray.serve-application"),
    ({"applications": [{"import_path": "a:b", "args": []}]}, "ray.serve-application"),
    ({"applications": [{}]}, "ray.serve-import-path"),
    ({"applications": [{"import_path": "app"}]}, "ray.serve-import-path"),
    ({"applications": [{"import_path": "a:b:c"}]}, "ray.serve-import-path"),
    ({"applications": [{"import_path": ":b"}]}, "ray.serve-import-path"),
    ({"applications": [{"import_path": "a."}]}, "ray.serve-import-path"),
    ({"applications": [{"import_path": 3}]}, "ray.serve-import-path"),
    ({"applications": [{"import_path": "a:b", "route_prefix": 3}]}, "ray.serve-route"),
    ({"applications": [{"import_path": "a:b"}, {"import_path": "c:d"}]}, "ray.serve-twice"),
    ({"applications": [{"name": "a", "import_path": "a:b"}, {"name": "b", "import_path": "c:d"}]}, "ray.serve-twice"),
    ({"applications": [{"import_path": "a:b", "deployments": [{}]}]}, "ray.serve-deployment"),
    (
        {"applications": [{"import_path": "a:b", "deployments": [{"name": "M", "num_replicas": 0}]}]},
        "ray.serve-deployment",
    ),
    (
        {
            "applications": [
                {
                    "import_path": "a:b",
                    "deployments": [{"name": "M", "num_replicas": 2, "autoscaling_config": {"max_replicas": 4}}],
                }
            ]
        },
        "ray.serve-deployment",
    ),
]


def rules(config: Any) -> set[str]:
    text = config if isinstance(config, str) else yaml.safe_dump(config)
    return {finding.rule for finding in serve_config.wrong(text, "spec.serveConfigV2")}


@pytest.mark.parametrize("config", TAKEN, ids=str)
def test_a_configuration_that_ray_accepts_has_no_finding(config: dict[str, Any]) -> None:
    ServeDeploySchema.model_validate(config)
    assert rules(config) == set()


@pytest.mark.parametrize(("config", "rule"), REFUSED, ids=str)
def test_a_configuration_that_ray_refuses_has_a_finding(config: dict[str, Any], rule: str) -> None:
    with pytest.raises((ValidationError, ValueError, TypeError)):
        ServeDeploySchema.model_validate(config)
    assert rule in rules(config)


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ("applications: [", "ray.serve-config"),
        ("some words", "ray.serve-config"),
        ("- a\n- b\n", "ray.serve-config"),
        ({"application": [], "applications": []}, "ray.serve-unknown"),
        ({"applications": [{"import_path": "a:b", "route": "/"}]}, "ray.serve-unknown"),
        ({"applications": [{"import_path": "a:b", "route_prefix": "a"}]}, "ray.serve-route"),
        ({"applications": [{"import_path": "a:b", "route_prefix": "/a/"}]}, "ray.serve-route"),
        (
            {
                "applications": [
                    {
                        "import_path": "a:b",
                        "deployments": [{"name": "M", "autoscaling_config": {"min_replicas": 3, "max_replicas": 2}}],
                    }
                ]
            },
            "ray.serve-deployment",
        ),
    ],
    ids=str,
)
def test_a_configuration_that_ray_ignores_or_refuses_later_has_a_finding(config: Any, rule: str) -> None:
    assert rule in rules(config)


def test_min_replicas_above_the_default_maximum_of_auto_has_a_finding() -> None:
    deployment = {"name": "M", "num_replicas": "auto", "autoscaling_config": {"min_replicas": 101}}
    config = {"applications": [{"import_path": "a:b", "deployments": [deployment]}]}
    with pytest.raises(ValidationError):
        handle_num_replicas_auto(5, {"min_replicas": 101})
    assert rules(config) == {"ray.serve-deployment"}


def test_yaml_is_parsed_as_the_operator_parses_it_where_python_differs() -> None:
    assert rules("applications: [{import_path: 'a:b', args: {day: 2024-02-30, is: =}}]") == set()
    [finding] = serve_config.wrong('applications: [{import_path: "a:b", args: {x: "\\ud83c\\udf89"}}]', "spec.config")
    assert (finding.rule, finding.path) == ("ray.serve-config", "spec.config")
    assert finding.remedy == "Write the character itself instead of its escapes."


def test_an_empty_configuration_is_allowed() -> None:
    assert rules("") == rules("  \n") == set()


def test_an_unknown_key_names_the_one_that_was_meant() -> None:
    [finding] = serve_config.wrong("applications: [{import_path: 'a:b', deployment: []}]", "spec.serveConfigV2")
    assert finding.path == "spec.serveConfigV2.applications[0].deployment"
    assert finding.remedy == "Did you mean 'deployments'?"
