"""The allow-list against Ray's own routes: a test fails once Ray adds or drops a route, until the tables have it."""

from __future__ import annotations

import inspect

from ray.dashboard.modules.job.job_head import JobHead
from ray.dashboard.modules.version import CURRENT_VERSION

from rayplane.gateway.api import ray_proxy
from rayplane.gateway.api.ray_routes import ALLOW, REFUSED


def _of_ray() -> set[tuple[str, str]]:
    handlers = (member for _, member in inspect.getmembers(JobHead, inspect.isfunction))
    return {(h.__route_method__, h.__route_path__) for h in handlers if hasattr(h, "__route_path__")}


def test_every_route_of_rays_job_server_is_allowed_or_refused_on_purpose() -> None:
    assert {*ALLOW, *REFUSED} == _of_ray()
    assert not set(ALLOW) & set(REFUSED)


def test_every_allowed_route_is_answered() -> None:
    made = ray_proxy.router()
    prefix = "/{team}/{cluster}"
    answered = {
        (method, route.path.removeprefix(prefix))
        for route in made.routes
        for method in (getattr(route, "methods", None) or {"GET"})
        if "{rest:path}" not in route.path
    }
    assert answered == set(ALLOW)


def test_the_api_version_is_the_one_of_the_installed_ray() -> None:
    assert ray_proxy.RAY_API_VERSION == CURRENT_VERSION
