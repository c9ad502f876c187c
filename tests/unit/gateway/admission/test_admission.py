"""Sizes, versions, and secrets and reserved names in specs."""

from __future__ import annotations

import pytest

from rayplane.errors import InvalidSpec, Refused
from rayplane.gateway.admission.env import check_env, check_values, names_a_secret
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.admission.versions import Declared, declared_by, require_match
from rayplane.nouns.environment import Environment
from rayplane.nouns.team import TeamSpec

CLUSTER = Environment(interpreter="local", ray="2.60.0", python="3.11", lock_hash="0", rayplane="0.1.0")


def test_a_size_that_the_team_does_not_have_is_refused_with_the_nearest() -> None:
    assert size_of(TeamSpec(), "small", team_name="growth").cpu == 8
    with pytest.raises(Refused, match=r"team 'growth' has no size 'smal'. Did you mean 'small'?"):
        size_of(TeamSpec(), "smal", team_name="growth")
    with pytest.raises(Refused, match="It may use: medium, small"):
        size_of(TeamSpec(), "gigantic", team_name="growth")


@pytest.mark.parametrize(
    "declared", [Declared(), Declared("2.60.0", "3.11"), Declared("2.60.3", "3.11.9"), Declared(ray="2.60")]
)
def test_the_same_minor_versions_match(declared: Declared) -> None:
    require_match(declared, CLUSTER, what="Cluster 'growth/dev'")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            Declared(ray="2.59.1"),
            "Cluster 'growth/dev' runs Ray 2.60.0, but this client has Ray 2.59.1. Use Ray 2.60 here",
        ),
        (Declared(ray="2.6.0"), "runs Ray 2.60.0, but this client has Ray 2.6.0"),
        (Declared("2.60.0", "3.12.1"), "runs Python 3.11, but this client has Python 3.12.1. Use Python 3.11 here"),
    ],
)
def test_another_minor_version_is_refused_with_what_to_use(declared: Declared, message: str) -> None:
    with pytest.raises(Refused) as caught:
        require_match(declared, CLUSTER, what="Cluster 'growth/dev'")
    assert message in str(caught.value)


def test_versions_are_declared_in_a_jobs_metadata() -> None:
    assert declared_by({"rayplane.ray": "2.60.0", "x": "y"}) == Declared(ray="2.60.0")


@pytest.mark.parametrize("key", ["RAYPLANE_TEAM", "RAY_ADDRESS", "RAY_AUTH_MODE"])
def test_variables_of_the_platform_are_refused(key: str) -> None:
    with pytest.raises(InvalidSpec, match=rf"job.env.{key}: names that start with RAYPLANE_ or RAY_"):
        check_env({key: "x"}, "job.env")


@pytest.mark.parametrize("key", ["", "A=B", "NUL\0"])
def test_an_invalid_variable_name_is_refused(key: str) -> None:
    with pytest.raises(InvalidSpec, match="can't be an environment variable"):
        check_env({key: "x"}, "job.env")


@pytest.mark.parametrize(
    "key", ["DB_PASSWORD", "HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "client_secret", "GOOGLE_CREDENTIALS"]
)
def test_a_variable_named_like_a_secret_is_refused_unless_it_is_empty_or_a_path(key: str) -> None:
    with pytest.raises(InvalidSpec, match="0600"):
        check_env({key: "s3cr3t"}, "job.env")
    check_env({key: ""}, "job.env")
    check_env({key: "/run/secrets/it"}, "job.env")


@pytest.mark.parametrize(
    "key", ["TOKENIZERS_PARALLELISM", "TOKEN_PATH", "SECRET_FILE", "MAX_TOKENS", "KEYBOARD", "TOKEN_LIMIT", "DAYS"]
)
def test_a_variable_that_only_sounds_like_a_secret_is_accepted(key: str) -> None:
    assert not names_a_secret(key)
    check_env({key: "1"}, "job.env")


@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN RSA PRIVATE KEY-----\nMII",
        "AKIA" + "A1B2C3D4E5F6G7H8",
        "ghp_" + "a" * 36,
        "hf_" + "b" * 34,
        "postgresql://ada:hunter2@db/prod",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
        "sk-" + "x1" * 15,
    ],
)
def test_a_value_that_looks_like_a_secret_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_values({"x": f"see {value}"}, "job.parameters")
    assert "job.parameters.x" in str(caught.value)
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["", "30", "s3://bucket/path", "http://user@host/", "task-force", "2013-01-01T00:00:00Z"]
)
def test_plain_values_are_accepted(value: str) -> None:
    check_values({"x": value}, "job.parameters")
