"""Ports are specific to a home, are kept, and are never those of other processes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

import pytest

from rayplane import processes
from rayplane.client.up import ports
from rayplane.errors import PortTaken

NAMES = ["gateway", "mlflow", "prometheus"]


def choose(
    *,
    known: Mapping[str, int] | None = None,
    seed: str = "a",
    required: Mapping[str, int] | None = None,
    ours: Callable[[str, int], bool] = lambda name, port: False,
    is_free: Callable[[int], bool] = lambda port: True,
) -> dict[str, int]:
    return ports.choose(
        NAMES,
        known or {},
        seed=seed,
        preferred={"gateway": 8470},
        required=required or {},
        ours=ours,
        is_free=is_free,
    )


def test_the_first_platform_of_a_host_gets_the_usual_port_and_the_others_their_own() -> None:
    first, second = choose(seed="a"), choose(seed="b", is_free=lambda port: port != 8470)
    assert first["gateway"] == 8470
    assert second["gateway"] != 8470
    assert not set(first.values()) & set(second.values())


def test_chosen_ports_are_distinct_and_outside_the_ephemeral_range() -> None:
    chosen = choose(is_free=lambda port: port != 8470)
    assert len(set(chosen.values())) == len(NAMES)
    assert all(ports.FIRST <= port <= ports.LAST for port in chosen.values())


def test_known_ports_are_kept() -> None:
    known = {"gateway": 21000, "mlflow": 21001, "prometheus": 21002}
    assert choose(known=known) == known


def test_a_known_port_that_another_process_took_is_replaced_and_the_others_are_kept() -> None:
    known = {"gateway": 21000, "mlflow": 21001, "prometheus": 21002}
    chosen = choose(known=known, is_free=lambda port: port != 21001)
    assert chosen["mlflow"] not in known.values()
    assert {k: v for k, v in chosen.items() if k != "mlflow"} == {"gateway": 21000, "prometheus": 21002}


def test_a_port_that_the_child_itself_holds_is_kept() -> None:
    known = {"gateway": 21000, "mlflow": 21001, "prometheus": 21002}
    assert choose(known=known, is_free=lambda port: False, ours=lambda name, port: True) == known


def test_a_required_port_in_use_is_an_error_that_names_port_and_remedy() -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            choose(required={"gateway": port}, is_free=processes.is_free)
    assert str(port) in caught.value.detail
    assert caught.value.remedy is not None
    assert "--port" in caught.value.remedy
    assert caught.value.exit_code == 8


def test_a_required_port_is_chosen_for_no_other_child() -> None:
    chosen = choose(known={"mlflow": 21000}, required={"gateway": 21000})
    assert chosen["gateway"] == 21000
    assert chosen["mlflow"] != 21000


def test_no_free_port_at_all_is_an_error() -> None:
    with pytest.raises(PortTaken, match="is free for gateway"):
        choose(is_free=lambda port: False)
