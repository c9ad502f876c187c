"""The API server's rules for an object's metadata: names, labels, annotations, finalizers, owners. Pure."""

from collections.abc import Callable, Iterator
from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import names
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, child, item, nearest, shown

_MOST_ANNOTATIONS = 256 * 1024
_FIELDS: dict[str, type] = {
    "name": str,
    "generateName": str,
    "namespace": str,
    "labels": dict,
    "annotations": dict,
    "finalizers": list,
    "ownerReferences": list,
    "uid": str,
    "resourceVersion": str,
    "generation": int,
    "creationTimestamp": str,
    "deletionTimestamp": str,
    "deletionGracePeriodSeconds": int,
    "selfLink": str,
    "managedFields": list,
}
_WORDS = {str: "a text", dict: "an object", list: "a list", int: "an integer"}


def wrong(metadata: Any, path: str = "metadata", *, namespaced: bool = True) -> Iterator[Finding]:
    """Findings about an object's metadata."""
    if not isinstance(metadata, dict):
        yield Finding(path, "metadata.type", f"is {shown(metadata)}, not an object", "Give the object its metadata.")
        return
    for key, value in metadata.items():
        kind = _FIELDS.get(key)
        if kind is None:
            yield Finding(child(path, key), "schema.unknown-field", "unknown field", nearest(key, _FIELDS))
        elif value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            message = f"is {shown(value)}, not {_WORDS[kind]}"
            yield Finding(child(path, key), "metadata.type", message, "Correct its type.")
    known: dict[str, Any] = {
        key: value for key, value in metadata.items() if key in _FIELDS and isinstance(value, _FIELDS[key])
    }
    yield from _names(known, path, namespaced=namespaced)
    yield from labels(known.get("labels") or {}, child(path, "labels"))
    yield from annotations(known.get("annotations") or {}, child(path, "annotations"))
    for index, finalizer in enumerate(known.get("finalizers") or []):
        yield from _syntax(finalizer, names.qualified, item(child(path, "finalizers"), index), "metadata.finalizer")
    for index, owner in enumerate(known.get("ownerReferences") or []):
        yield from _owner(owner, item(child(path, "ownerReferences"), index))
    if known.get("managedFields"):
        message = "must not be sent: the API server keeps it"
        yield Finding(child(path, "managedFields"), "metadata.managed-fields", message, "Remove it.")


def labels(values: dict[str, Any], path: str) -> Iterator[Finding]:
    """Findings about the labels of an object or of a pod template."""
    for key, value in values.items():
        yield from _syntax(key, names.qualified, child(path, key), "metadata.label-key")
        if not isinstance(value, str):
            remedy = f'Write it in quotes: "{str(value).lower() if isinstance(value, bool) else value}".'
            yield Finding(child(path, key), "metadata.type", f"is {shown(value)}, not a text", remedy)
        elif problem := names.label_value(value):
            message = f"the label's value {shown(value)} {problem}"
            yield Finding(child(path, key), "metadata.label-value", message, names.QUALIFIED_REMEDY)


def annotations(values: dict[str, Any], path: str) -> Iterator[Finding]:
    """Findings about annotations."""
    for key, value in values.items():
        yield from _syntax(key.lower(), names.qualified, child(path, key), "metadata.annotation-key")
        if not isinstance(value, str):
            remedy = f'Write it in quotes: "{str(value).lower() if isinstance(value, bool) else value}".'
            yield Finding(child(path, key), "metadata.type", f"is {shown(value)}, not a text", remedy)
    size = sum(len(key.encode()) + len(str(value).encode()) for key, value in values.items())
    if size > _MOST_ANNOTATIONS:
        message = f"have {size} bytes together, more than {_MOST_ANNOTATIONS}"
        yield Finding(path, "metadata.annotations-size", message, "Keep what is big in a ConfigMap or in storage.")


def _names(known: dict[str, Any], path: str, *, namespaced: bool) -> Iterator[Finding]:
    name, stem = known.get("name", ""), known.get("generateName", "")
    if not name and not stem:
        yield Finding(child(path, "name"), "metadata.name", "required, and missing", "Give the object a name.")
    if name and (problem := names.subdomain(name)):
        message = f"the name {shown(name)} {problem}"
        yield Finding(child(path, "name"), "metadata.name", message, names.SUBDOMAIN_REMEDY)
    if stem and (problem := names.subdomain(stem.rstrip("-"))):
        message = f"the name's beginning {shown(stem)} {problem}"
        yield Finding(child(path, "generateName"), "metadata.name", message, names.SUBDOMAIN_REMEDY)
    namespace = known.get("namespace", "")
    if namespaced and namespace and (problem := names.label_1123(namespace)):
        message = f"the namespace {shown(namespace)} {problem}"
        yield Finding(child(path, "namespace"), "metadata.namespace", message, names.LABEL_1123_REMEDY)


def _owner(owner: Any, path: str) -> Iterator[Finding]:
    for key in ("apiVersion", "kind", "name", "uid"):
        if not isinstance(owner, dict) or not isinstance(owner.get(key), str) or not owner[key]:
            yield Finding(child(path, key), "metadata.owner", "required of an owner", f"Say the owner's {key}.")


def _syntax(value: Any, wrong_of: Callable[[str], str], path: str, rule: str) -> Iterator[Finding]:
    if not isinstance(value, str):
        yield Finding(path, "metadata.type", f"is {shown(value)}, not a text", "Give a text.")
    elif problem := wrong_of(value):
        yield Finding(path, rule, f"{shown(value)} {problem}", names.QUALIFIED_REMEDY)
