"""Rules for a RayCluster that its definition does not have: breaking one, it is accepted and never works. Pure.

The operator reports most violations by one Warning event, and then ignores the object. The same rules hold for the
cluster inside a RayJob or a RayService.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import names, pods
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, below, child, item, nearest, shown

MOST_NAME = 53
"""The most characters of a cluster's name: the operator derives names of Services from it, of at most 63."""

Object = dict[str, Any]

_FT = "ray.io/ft-enabled"
_STORAGE_NAMESPACE = "ray.io/external-storage-namespace"
_MADE_FROM = "ray.io/originated-from-crd"
_V2 = "RAY_enable_autoscaler_v2"
_AMOUNTS = ("num-cpus", "num-gpus", "memory", "resources")
_SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")
_METRICS = ("metrics", 8080)
"""The port that the operator adds to the head's Service if the head has no port of that name."""
_VERSION = re.compile(r"\s*v?(\d+)\.(\d+)(?:\.(\d+))?")


def wrong(cluster: Object, old: Object | None) -> Iterator[Finding]:
    """Findings about a RayCluster as the API server would store it; ``old`` is the present one, if any."""
    metadata, spec = cluster["metadata"], cluster["spec"]
    yield from name_wrong(metadata.get("name") or "", "RayCluster", MOST_NAME)
    yield from managed_by_unset(cluster, old)
    yield from spec_wrong(spec, metadata.get("annotations") or {}, "spec")
    labels = metadata.get("labels") or {}
    if (spec.get("upgradeStrategy") or {}).get("type") and labels.get(_MADE_FROM) in ("RayJob", "RayService"):
        message = f"can't be set on a cluster that a {labels[_MADE_FROM]} makes"
        yield Finding("spec.upgradeStrategy.type", "ray.upgrade-of-child", message, "Leave out 'upgradeStrategy'.")


def name_wrong(name: str, kind: str, most: int) -> Iterator[Finding]:
    """Finding about a name from which the operator can't derive valid names."""
    if len(name) > most:
        message = (
            f"has {len(name)} characters, and a {kind}'s name has at most {most}: names of Services are made of it"
        )
        yield Finding("metadata.name", "ray.name-length", message, f"Choose a name of at most {most} characters.")
    elif name and names.label_1035(name) and not names.subdomain(name):
        message = f"'{name}' can't begin the name of a Service"
        yield Finding("metadata.name", "ray.name", message, names.LABEL_1035_REMEDY)


def managed_by_unset(thing: Object, old: Object | None) -> Iterator[Finding]:
    """Finding about a removed ``managedBy``: the definition forbids its change, but not its removal."""
    before = (old or {}).get("spec", {}).get("managedBy")
    if before and not thing["spec"].get("managedBy"):
        message = f"is '{before}' and can't be taken away"
        remedy = f"Keep '{before}', or delete the object and create it again."
        yield Finding("spec.managedBy", "ray.managed-by-unset", message, remedy)


def spec_wrong(spec: Object, annotations: Mapping[str, str], path: str) -> Iterator[Finding]:
    """Findings about a cluster's spec in any kind of object; ``annotations`` are that object's."""
    yield from _head(spec, child(path, "headGroupSpec"))
    yield from _workers(spec, child(path, "workerGroupSpecs"))
    yield from _autoscaler(spec, path)
    yield from _fault_tolerance(spec, annotations, path)
    yield from _authentication(spec, path)


def autoscaling(spec: Object | None) -> bool:
    """True if Ray's autoscaler runs in a cluster."""
    return bool(spec and spec.get("enableInTreeAutoscaling"))


def first_container(template: Object) -> Object:
    """The first container, which runs Ray."""
    containers: list[Object] = (template.get("spec") or {}).get("containers") or [{}]
    return containers[0]


def _head(spec: Object, path: str) -> Iterator[Finding]:
    head = spec["headGroupSpec"]
    yield from _group(head, "the head", path)
    kind = head.get("serviceType")
    if kind and kind not in _SERVICE_TYPES:
        message = f"{shown(kind)} is none of {', '.join(_SERVICE_TYPES)}"
        yield Finding(child(path, "serviceType"), "ray.service-type", message, nearest(kind, _SERVICE_TYPES))
    name = ((head.get("headService") or {}).get("metadata") or {}).get("name")
    if name and (problem := names.label_1123(name)):
        message = f"the name {shown(name)} {problem}"
        yield Finding(below(path, "headService.metadata.name"), "ray.name", message, names.LABEL_1123_REMEDY)
    yield from _head_ports(
        first_container(head["template"]).get("ports") or [], below(path, "template.spec.containers[0].ports")
    )


def _head_ports(ports: list[Object], path: str) -> Iterator[Finding]:
    """Findings about ports of the head's first container: KubeRay puts all into one Service, over TCP only."""
    taken: dict[int, str] = {}
    if ports and all(port.get("name") != _METRICS[0] for port in ports):
        taken[_METRICS[1]] = f"'{_METRICS[0]}', which is added"
    for index, port in enumerate(ports):
        number, name = port["containerPort"], port.get("name") or ""
        if number in taken:
            message = f"{number} is the port of {taken[number]} too: the head's Service can't have it twice"
            remedy = f"Call it '{_METRICS[0]}', or use another port." if number == _METRICS[1] else "Use another port."
            yield Finding(child(item(path, index), "containerPort"), "ray.head-ports", message, remedy)
        taken.setdefault(number, f"'{name}'" if name else "another entry")


def _workers(spec: Object, path: str) -> Iterator[Finding]:
    names_before: set[str] = set()
    for index, group in enumerate(spec.get("workerGroupSpecs") or []):
        where, name = item(path, index), group.get("groupName", "")
        if name in names_before:
            message = f"another worker group is called '{name}' too: their pods could not be told apart"
            yield Finding(child(where, "groupName"), "ray.group-twice", message, "Give each group its own name.")
        names_before.add(name)
        if problem := names.label_value(name) or names.subdomain(name.lower()):
            message = f"the group's name {shown(name)} {problem}: pods are named and labelled by it"
            yield Finding(child(where, "groupName"), "ray.group-name", message, names.LABEL_1123_REMEDY)
        yield from _group(group, f"worker group '{name}'", where)
        yield from _counts(group, where)
        yield from _group_autoscaling(group, spec, where)


def _group(group: Object, who: str, path: str) -> Iterator[Finding]:
    template, parameters = group["template"], group.get("rayStartParams") or {}
    if not (template.get("spec") or {}).get("containers"):
        message = f"{who} has no container"
        yield Finding(below(path, "template.spec.containers"), "ray.containers", message, "Give it one that runs Ray.")
    yield from pods.wrong(template, child(path, "template"))
    if group.get("resources") and any(parameters.get(key) for key in _AMOUNTS):
        message = f"{who} says what it has in 'resources' and in 'rayStartParams'"
        yield Finding(child(path, "resources"), "ray.resources-twice", message, "Say it in one of them.")
    where = child(path, "rayStartParams")
    if "labels" in parameters:
        message = "labels are not set here"
        yield Finding(child(where, "labels"), "ray.start-labels", message, "Use the group's own field 'labels'.")
    if (setting := parameters.get("resources")) and not _is_amounts(setting):
        message = f"{shown(setting)} is no JSON object of numbers"
        yield Finding(child(where, "resources"), "ray.start-resources", message, """Write '"{\\"name\\": 1}"'.""")
    for key in ("num-cpus", "num-gpus", "memory"):
        if (setting := parameters.get(key)) and not re.fullmatch(r"\d+", setting.strip("'\"")):
            message = f"{shown(setting)} is no whole number"
            yield Finding(child(where, key), "ray.start-number", message, "Give a plain whole number of 0 or more.")
    for key, value in (group.get("labels") or {}).items():
        if problem := names.qualified(key) or names.label_value(value):
            message = f"the label {shown(f'{key}={value}')} {problem}"
            yield Finding(child(child(path, "labels"), key), "ray.group-label", message, names.QUALIFIED_REMEDY)


def _counts(group: Object, path: str) -> Iterator[Finding]:
    least, most, replicas = group.get("minReplicas"), group.get("maxReplicas"), group.get("replicas")
    for key in ("minReplicas", "maxReplicas", "replicas"):
        if (value := group.get(key)) is not None and value < 0:
            yield Finding(child(path, key), f"ray.negative-{key}", f"{value} is negative", "Give 0 or more.")
    if least is not None and most is not None and least > most:
        message = f"{least} is more than maxReplicas, {most}"
        remedy = "Lower minReplicas, or raise maxReplicas."
        yield Finding(child(path, "minReplicas"), "ray.min-over-max", message, remedy)
    elif replicas is not None and most is not None and 0 <= most < replicas:
        message = f"{replicas} is more than maxReplicas, {most}: no more than {most} would come"
        yield Finding(
            child(path, "replicas"), "ray.replicas-over-max", message, "Lower replicas, or raise maxReplicas."
        )
    if group.get("numOfHosts", 1) < 1:
        message = f"{group['numOfHosts']} hosts for each replica: no worker would come"
        yield Finding(child(path, "numOfHosts"), "ray.hosts", message, "Give 1 or more, or leave it out.")


def _group_autoscaling(group: Object, spec: Object, path: str) -> Iterator[Finding]:
    if group.get("suspend") and autoscaling(spec):
        message = "a group can't be suspended while the autoscaler is on"
        yield Finding(child(path, "suspend"), "ray.group-suspend", message, "Set maxReplicas to 0 instead.")
    idle = group.get("idleTimeoutSeconds")
    if idle is None:
        return
    if idle < 0:
        message = f"{idle} is negative"
        yield Finding(child(path, "idleTimeoutSeconds"), "ray.idle-negative", message, "Give 0 or more seconds.")
    elif not _version_2(spec):
        message = "only the second autoscaler knows a timeout for each group"
        remedy = "Set 'autoscalerOptions.version' to v2."
        yield Finding(child(path, "idleTimeoutSeconds"), "ray.group-idle", message, remedy)


def _version_2(spec: Object) -> bool:
    if (spec.get("autoscalerOptions") or {}).get("version") == "v2":
        return True
    return _env(first_container(spec["headGroupSpec"]["template"])).get(_V2) in ("1", "true")


def _autoscaler(spec: Object, path: str) -> Iterator[Finding]:
    options, head = spec.get("autoscalerOptions") or {}, spec["headGroupSpec"]["template"]
    variables, where = _env(first_container(head)), below(path, "headGroupSpec.template.spec")
    idle = options.get("idleTimeoutSeconds")
    if idle is not None and idle < 0:
        message = f"{idle} is negative"
        field = below(path, "autoscalerOptions.idleTimeoutSeconds")
        yield Finding(field, "ray.idle-negative", message, "Give 0 or more seconds.")
    if options.get("resources"):
        yield from pods.resources(options["resources"], below(path, "autoscalerOptions.resources"))
    yield from pods.environment(options, child(path, "autoscalerOptions"))
    if not autoscaling(spec):
        if variables.get(_V2) in ("1", "true"):
            message = f"the variable {_V2} is set, and the autoscaler is off"
            remedy = "Set 'enableInTreeAutoscaling', or leave out the variable."
            yield Finding(below(where, "containers[0].env"), "ray.autoscaler-off", message, remedy)
        return
    if options.get("version") and _V2 in variables:
        message = f"the autoscaler's version is given here and by the variable {_V2}"
        remedy = "Leave out the variable."
        yield Finding(below(path, "autoscalerOptions.version"), "ray.autoscaler-version-twice", message, remedy)
    if options.get("version") == "v2":
        groups = [(f"workerGroupSpecs[{n}]", each) for n, each in enumerate(spec.get("workerGroupSpecs") or [])]
        for name, group in [("headGroupSpec", spec["headGroupSpec"]), *groups]:
            policy = (group["template"].get("spec") or {}).get("restartPolicy")
            if policy not in (None, "", "Never"):
                message = f"is '{policy}', and the second autoscaler replaces pods itself"
                field = below(path, f"{name}.template.spec.restartPolicy")
                yield Finding(field, "ray.restart-policy", message, "Set it to Never, or leave it out.")


def _fault_tolerance(spec: Object, annotations: Mapping[str, str], path: str) -> Iterator[Finding]:
    options, head = spec.get("gcsFaultToleranceOptions"), spec["headGroupSpec"]
    variables, parameters = _env(first_container(head["template"])), head.get("rayStartParams") or {}
    env = below(path, "headGroupSpec.template.spec.containers[0].env")
    params = below(path, "headGroupSpec.rayStartParams")
    if options is None:
        if annotations.get(_FT, "").lower() != "true" and "RAY_REDIS_ADDRESS" in variables:
            message = "RAY_REDIS_ADDRESS turns on fault tolerance, which is not set up"
            yield Finding(env, "ray.redis-address", message, "Set 'gcsFaultToleranceOptions.redisAddress' instead.")
    else:
        if annotations.get(_FT):
            message = "fault tolerance is set by this annotation and by 'gcsFaultToleranceOptions'"
            yield Finding(child("metadata.annotations", _FT), "ray.ft-twice", message, "Leave out the annotation.")
        if annotations.get(_STORAGE_NAMESPACE):
            remedy = "Set 'gcsFaultToleranceOptions.externalStorageNamespace' instead."
            field = child("metadata.annotations", _STORAGE_NAMESPACE)
            yield Finding(field, "ray.ft-twice", "is not read beside 'gcsFaultToleranceOptions'", remedy)
        if parameters.get("redis-password"):
            remedy = "Set 'gcsFaultToleranceOptions.redisPassword' instead."
            message = "is not taken beside 'gcsFaultToleranceOptions'"
            yield Finding(child(params, "redis-password"), "ray.redis-password", message, remedy)
        for name, field in (("REDIS_PASSWORD", "redisPassword"), ("RAY_REDIS_ADDRESS", "redisAddress")):
            if name in variables:
                message = f"{name} is not taken beside 'gcsFaultToleranceOptions'"
                rule = "ray.redis-password" if field == "redisPassword" else "ray.redis-address"
                yield Finding(env, rule, message, f"Set 'gcsFaultToleranceOptions.{field}' instead.")
    if parameters.get("redis-username") or "REDIS_USERNAME" in variables:
        field = child(params, "redis-username") if parameters.get("redis-username") else env
        remedy = "Set 'gcsFaultToleranceOptions.redisUsername' instead."
        yield Finding(field, "ray.redis-username", "the user of Redis is not set here", remedy)


def _authentication(spec: Object, path: str) -> Iterator[Finding]:
    options, version = spec.get("authOptions") or {}, spec.get("rayVersion") or ""
    where = child(path, "authOptions")
    if options.get("mode") != "token":
        if options.get("enableK8sTokenAuth"):
            message = "needs token authentication, which is off"
            field = child(where, "enableK8sTokenAuth")
            yield Finding(field, "ray.k8s-auth", message, "Set 'authOptions.mode' to token.")
        return
    least = (2, 55) if options.get("enableK8sTokenAuth") else (2, 52)
    match = _VERSION.match(version)
    remedy = f"Set 'rayVersion' to the Ray of the image, {least[0]}.{least[1]}.0 or later."
    if match is None:
        message = f"{shown(version)} is no version" if version else "token authentication needs to know Ray's version"
        yield Finding(child(path, "rayVersion"), "ray.auth-version", message, remedy)
    elif (int(match[1]), int(match[2])) < least:
        message = f"token authentication needs Ray {least[0]}.{least[1]}.0, and this is {version}"
        remedy = "Use an image with that Ray and say so in 'rayVersion', or set 'authOptions.mode' to disabled."
        yield Finding(child(path, "rayVersion"), "ray.auth-version", message, remedy)
    if options.get("enableK8sTokenAuth") and options.get("secretName"):
        message = "Kubernetes' own tokens and a Secret with one are both asked for"
        yield Finding(child(where, "secretName"), "ray.k8s-auth", message, "Leave out one of them.")


def _env(container: Object) -> dict[str, str]:
    variables: dict[str, str] = {}
    for each in container.get("env") or []:
        variables.setdefault(each["name"], each.get("value") or "")
    return variables


def _is_amounts(text: str) -> bool:
    try:
        amounts = json.loads(text.strip("'\"` ").replace('\\"', '"'))
    except ValueError:
        return False
    return isinstance(amounts, dict) and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in amounts.values()
    )
