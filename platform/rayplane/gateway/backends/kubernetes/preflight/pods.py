"""The API server's rules for pods, applied to the template from which the operator makes them. Pure.

KubeRay's definitions describe the structure of a template, not Kubernetes' rules for pods: the API server accepts a
template that breaks one, and then refuses every pod. Only rules that specs, sizes and teams can break are here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import metadata, names
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, below, child, item, nearest, shown
from rayplane.gateway.backends.kubernetes.preflight.quantity import quantity

_PORT_NAME = re.compile(r"(?!.*--)(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_ENV_NAME = re.compile(r"[ -<>-~]+")
_COMPUTE = frozenset({"cpu", "memory", "ephemeral-storage"})
_CHOICES = {
    "restartPolicy": ("Always", "OnFailure", "Never"),
    "dnsPolicy": ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "protocol": ("TCP", "UDP", "SCTP"),
    "terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
}
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")


def wrong(template: dict[str, Any], path: str) -> Iterator[Finding]:
    """Findings for which the API server would refuse pods of a template."""
    meta, spec = template.get("metadata") or {}, template.get("spec") or {}
    yield from metadata.labels(meta.get("labels") or {}, below(path, "metadata.labels"))
    yield from metadata.annotations(meta.get("annotations") or {}, below(path, "metadata.annotations"))
    path = child(path, "spec")
    yield from _choice(spec, "restartPolicy", path)
    yield from _choice(spec, "dnsPolicy", path)
    if (value := spec.get("activeDeadlineSeconds")) is not None and value < 1:
        message = f"{value} is no time to run in"
        yield Finding(child(path, "activeDeadlineSeconds"), "pod.seconds", message, "Give 1 second or more.")
    for key in ("serviceAccountName", "priorityClassName", "runtimeClassName", "nodeName"):
        if (value := spec.get(key)) and (problem := names.subdomain(value)):
            yield Finding(child(path, key), "pod.name", f"{shown(value)} {problem}", names.SUBDOMAIN_REMEDY)
    yield from metadata.labels(spec.get("nodeSelector") or {}, child(path, "nodeSelector"))
    for index, each in enumerate(spec.get("tolerations") or []):
        yield from _toleration(each, item(child(path, "tolerations"), index))
    yield from _volumes(spec, path)
    yield from _containers(spec, path)


def _containers(spec: dict[str, Any], path: str) -> Iterator[Finding]:
    volumes = [each.get("name", "") for each in spec.get("volumes") or []]
    before = {each.get("name") for each in spec.get("initContainers") or []}
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or []):
            where = item(child(path, kind), index)
            name = container.get("name", "")
            if problem := names.label_1123(name):
                message = f"the name {shown(name)} {problem}"
                yield Finding(child(where, "name"), "pod.container-name", message, names.LABEL_1123_REMEDY)
            elif kind == "containers" and name in before:
                message = f"another container, that runs before, is called '{name}' too"
                yield Finding(child(where, "name"), "pod.container-twice", message, "Give each its own name.")
            yield from _container(container, volumes, where)


def _container(container: dict[str, Any], volumes: list[str], path: str) -> Iterator[Finding]:
    image = container.get("image") or ""
    if not image.strip() or image != image.strip():
        message = f"is {shown(image)}, no image" if not image.strip() else f"{shown(image)} begins or ends in a blank"
        yield Finding(child(path, "image"), "pod.image", message, "Name the image that the container runs.")
    yield from _choice(container, "imagePullPolicy", path)
    yield from _choice(container, "terminationMessagePolicy", path)
    yield from resources(container.get("resources") or {}, child(path, "resources"))
    yield from environment(container, path)
    yield from _ports(container.get("ports") or [], child(path, "ports"))
    yield from _mounts(container.get("volumeMounts") or [], volumes, child(path, "volumeMounts"))
    yield from _security(container.get("securityContext") or {}, child(path, "securityContext"))
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        if (probe := container.get(key)) is not None:
            yield from _probe(probe, key, child(path, key))


def resources(requirements: dict[str, Any], path: str) -> Iterator[Finding]:
    """Findings about requests and limits: no quantities, negative ones, requests above limits, unknown names."""
    limits, requests = requirements.get("limits") or {}, requirements.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            where = child(child(path, kind), name)
            worth = quantity(amount)
            if worth is None:
                message = f"{shown(amount)} is no quantity"
                yield Finding(where, "pod.quantity", message, "Give one, such as 500m, 2 or 4Gi.")
            elif worth < 0:
                yield Finding(where, "pod.quantity-negative", f"{amount} is negative", "Give 0 or more.")
            yield from _resource_name(name, where)
            if worth is not None and _is_extended(name) and worth.denominator != 1:
                message = f"{amount} of {name}: it comes in whole pieces only"
                yield Finding(where, "pod.whole-devices", message, "Give a whole number.")
    for name, amount in requests.items():
        least, most = quantity(amount), quantity(limits.get(name))
        where = child(child(path, "requests"), name)
        if least is not None and most is not None and least > most:
            message = f"{amount} is more than the limit, {limits[name]}"
            yield Finding(where, "pod.request-over-limit", message, "Raise the limit, or lower the request.")
        elif _is_extended(name) and (name not in limits or least != most):
            message = f"{name} has no limit that equals its request, and it can't be shared"
            yield Finding(where, "pod.device-limit", message, "Set the limit to what is requested.")


def environment(container: dict[str, Any], path: str) -> Iterator[Finding]:
    """Findings about a container's environment."""
    for index, each in enumerate(container.get("env") or []):
        where = item(child(path, "env"), index)
        name = each.get("name", "")
        if not _ENV_NAME.fullmatch(name):
            message = f"{shown(name)} can't name a variable"
            yield Finding(child(where, "name"), "pod.env-name", message, "Use printable characters without '='.")
        source = each.get("valueFrom")
        if source is None:
            continue
        if each.get("value"):
            message = f"'{name}' has a value and a source of one"
            yield Finding(where, "pod.env-twice", message, "Keep 'value' or 'valueFrom'.")
        kinds = [kind for kind in source if source[kind] is not None]
        if len(kinds) != 1:
            message = f"'{name}' has {len(kinds) or 'no'} sources"
            yield Finding(child(where, "valueFrom"), "pod.env-source", message, "Give exactly one.")
        for kind in ("secretKeyRef", "configMapKeyRef"):
            if isinstance(source.get(kind), dict):
                yield from _reference(source[kind], child(child(where, "valueFrom"), kind))
    for index, each in enumerate(container.get("envFrom") or []):
        where = item(child(path, "envFrom"), index)
        references = [kind for kind in ("secretRef", "configMapRef") if each.get(kind) is not None]
        if len(references) != 1:
            message = f"has {len(references) or 'no'} sources"
            yield Finding(where, "pod.env-source", message, "Give a secretRef or a configMapRef.")
        for kind in references:
            yield from _reference(each[kind], child(where, kind))


def _reference(reference: dict[str, Any], path: str) -> Iterator[Finding]:
    name = reference.get("name") or ""
    if problem := names.subdomain(name):
        message = f"the name {shown(name)} {problem}"
        yield Finding(child(path, "name"), "pod.reference", message, "Name the Secret or ConfigMap that is meant.")


def _ports(ports: list[dict[str, Any]], path: str) -> Iterator[Finding]:
    names_before: set[str] = set()
    for index, port in enumerate(ports):
        where = item(path, index)
        for key in ("containerPort", "hostPort"):
            number = port.get(key)
            if number is not None and not (1 <= number <= 65535) and not (key == "hostPort" and number == 0):
                message = f"{number} is no port"
                yield Finding(child(where, key), "pod.port", message, "Give a number between 1 and 65535.")
        yield from _choice(port, "protocol", where)
        name = port.get("name")
        if not name:
            continue
        if not _PORT_NAME.fullmatch(name):
            remedy = "Use at most 15 lower-case letters, digits and single '-', with one letter at least."
            yield Finding(child(where, "name"), "pod.port-name", f"{shown(name)} can't name a port", remedy)
        elif name in names_before:
            message = f"another port is called '{name}' too"
            yield Finding(child(where, "name"), "pod.port-twice", message, "Give each its own name.")
        names_before.add(name)


def _volumes(spec: dict[str, Any], path: str) -> Iterator[Finding]:
    for index, volume in enumerate(spec.get("volumes") or []):
        where = item(child(path, "volumes"), index)
        name = volume.get("name", "")
        if problem := names.label_1123(name):
            message = f"the name {shown(name)} {problem}"
            yield Finding(child(where, "name"), "pod.volume-name", message, names.LABEL_1123_REMEDY)
        sources = [key for key in volume if key != "name" and volume[key] is not None]
        if len(sources) > 1:  # one without any is an emptyDir
            message = f"volume '{name}' has {len(sources)} sources"
            yield Finding(where, "pod.volume-source", message, "Keep one, such as emptyDir: {}.")
        secret = volume.get("secret")
        if secret is not None and not secret.get("secretName"):
            message = "does not say which Secret"
            yield Finding(below(where, "secret.secretName"), "pod.volume-secret", message, "Name it.")
        if volume.get("configMap") is not None and not volume["configMap"].get("name"):
            message = "does not say which ConfigMap"
            yield Finding(below(where, "configMap.name"), "pod.volume-secret", message, "Name it.")
        limit = (volume.get("emptyDir") or {}).get("sizeLimit")
        if limit is not None and ((worth := quantity(limit)) is None or worth < 0):
            message = f"{shown(limit)} is no quantity of at least 0"
            yield Finding(below(where, "emptyDir.sizeLimit"), "pod.quantity", message, "Give one, such as 4Gi.")


def _mounts(mounts: list[dict[str, Any]], volumes: list[str], path: str) -> Iterator[Finding]:
    for index, mount in enumerate(mounts):
        where = item(path, index)
        name = mount.get("name", "")
        if name not in volumes:
            remedy = nearest(name, volumes) if volumes else "Add it to the pod's volumes."
            yield Finding(child(where, "name"), "pod.mount", f"there is no volume '{name}'", remedy)
        if not mount.get("mountPath"):
            yield Finding(child(where, "mountPath"), "pod.mount-path", "is empty", "Say where to mount it.")
        sub = mount.get("subPath") or ""
        if sub.startswith("/") or ".." in sub.split("/"):
            message = f"{shown(sub)} leaves the volume"
            yield Finding(child(where, "subPath"), "pod.mount-path", message, "Give a path inside the volume.")


def _security(context: dict[str, Any], path: str) -> Iterator[Finding]:
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        message = "is privileged, which allows escalation, and forbids it"
        yield Finding(path, "pod.privileged", message, "Leave out 'privileged'.")
    for key in ("runAsUser", "runAsGroup"):
        if (value := context.get(key)) is not None and value < 0:
            yield Finding(child(path, key), "pod.user", f"{value} is negative", "Give a user's number.")


def _probe(probe: dict[str, Any], key: str, path: str) -> Iterator[Finding]:
    handlers = [kind for kind in _HANDLERS if probe.get(kind) is not None]
    if len(handlers) != 1:
        message = f"says {len(handlers) or 'no'} ways to probe"
        yield Finding(path, "pod.probe", message, f"Give exactly one of {', '.join(_HANDLERS)}.")
    for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if (value := probe.get(name)) is not None and value < 0:
            yield Finding(child(path, name), "pod.seconds", f"{value} is negative", "Give 0 or more.")
    if key != "readinessProbe" and probe.get("successThreshold", 1) not in (0, 1):
        message = f"is {probe['successThreshold']}, and must be 1 here"
        yield Finding(child(path, "successThreshold"), "pod.probe", message, "Leave it out.")


def _toleration(toleration: dict[str, Any], path: str) -> Iterator[Finding]:
    operator = toleration.get("operator") or "Equal"
    if operator not in ("Exists", "Equal", "Lt", "Gt"):
        remedy = nearest(operator, ("Exists", "Equal"))
        yield Finding(child(path, "operator"), "pod.toleration", f"{shown(operator)} is no operator", remedy)
    if operator == "Exists" and toleration.get("value"):
        message = "is not asked for: the operator is Exists"
        yield Finding(child(path, "value"), "pod.toleration", message, "Leave it out.")
    if toleration.get("effect") not in (None, "", "NoSchedule", "PreferNoSchedule", "NoExecute"):
        remedy = nearest(toleration["effect"], ("NoSchedule", "PreferNoSchedule", "NoExecute"))
        message = f"{shown(toleration['effect'])} is no effect"
        yield Finding(child(path, "effect"), "pod.toleration", message, remedy)


def _choice(holder: dict[str, Any], key: str, path: str) -> Iterator[Finding]:
    value = holder.get(key)
    if value and value not in _CHOICES[key]:
        message = f"{shown(value)} is none of {', '.join(_CHOICES[key])}"
        yield Finding(child(path, key), "pod.choice", message, nearest(value, _CHOICES[key]))


def _resource_name(name: str, path: str) -> Iterator[Finding]:
    if name in _COMPUTE or name.startswith("hugepages-"):
        return
    if "/" not in name:
        message = f"'{name}' is no resource of Kubernetes'"
        yield Finding(path, "pod.resource-name", message, nearest(name, (*_COMPUTE, "nvidia.com/gpu")))
    elif problem := names.qualified(name):
        yield Finding(path, "pod.resource-name", f"'{name}' {problem}", names.QUALIFIED_REMEDY)


def _is_extended(name: str) -> bool:
    return "/" in name and not name.split("/")[0].endswith("kubernetes.io")
