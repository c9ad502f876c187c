"""The allow-list against Ray's own route table: a route that Ray adds or drops fails here until somebody decides."""

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


def test_the_spoken_version_is_rays() -> None:
    assert ray_proxy.RAY_API_VERSION == CURRENT_VERSION
