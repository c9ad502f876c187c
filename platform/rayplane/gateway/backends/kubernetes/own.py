"""What clusters, jobs and services share of the backend: its parts, and the Secret beside each of their objects."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayplane.errors import NotFound, Unavailable
from rayplane.gateway.backends.base import ClusterRef, JobRef, Node, Observation, ServiceRef
from rayplane.gateway.backends.kubernetes import compare, observation, pods
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.cache import Cache, Whose
from rayplane.gateway.backends.kubernetes.kinds import POD, RAYCLUSTER, RAYJOB, SECRET, UID, Kind, Object
from rayplane.gateway.backends.kubernetes.pods import Owner
from rayplane.gateway.backends.kubernetes.raycluster import REDIS_PASSWORD, SECRETS_HASH
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.cluster import Endpoint
from rayplane.nouns.environment import Environment
from rayplane.settings import read_secret, write_secret

RAY_CLUSTER = "ray.io/cluster"
"""KubeRay's label on pods: the RayCluster that they are of."""


@dataclass(frozen=True)
class Shared:
    """Parts of the backend that those who act on objects use."""

    api: KubeApi
    cache: Cache
    settings: KubernetesSettings
    root: str
    """URI of the storage root."""
    token_path: Callable[[str], Path]
    """The 0600 file with the token of a Ray, by the uid of its cluster or service, or by the attempt of its job."""
    environment: Callable[[], Environment]
    fall_of: Callable[[Whose], observation.Fall | None]
    """How somebody's head ended, if it did and nobody dealt with it."""
    forgive: Callable[[Whose], None]
    """Deal with that."""
    with_gone: Callable[[Whose, tuple[Node, ...]], tuple[Node, ...]]
    """The nodes that there are of somebody's, and those that it gave back lately."""
    wrong: Callable[[Object], list[str]]
    """What is wrong with an object for its definition, and for KubeRay, each with its remedy."""

    def whose(self, ref: ClusterRef | JobRef | ServiceRef) -> Whose:
        """By what its objects are known to be its own."""
        return Whose(self.settings.namespace(ref.team), ref.uid)


def look_at_cluster(
    shared: Shared, name: str, whose: Whose, fall: observation.Fall | None = None
) -> tuple[Observation, list[Object]]:
    """(what is seen of one RayCluster that KubeRay made for somebody, its pods). Empty name: none yet."""
    held = [pod for pod in shared.cache[POD].of(whose) if pod["metadata"]["labels"].get(RAY_CLUSTER) == name]
    found = shared.cache[RAYCLUSTER].get(whose.namespace, name) if name else None
    if found is not None and (found["metadata"].get("labels") or {}).get(UID) != whose.uid:
        found = None
    if found is not None:
        # It is KubeRay's: what was asked for, and its Secret, are noted on the object that it belongs to.
        found = {**found, "drift": "", "metadata": {**found["metadata"], "annotations": {SECRETS_HASH: ""}}}
    return observation.look(found, held, fall), held


def nodes_of(shared: Shared, whose: Whose) -> tuple[Node, ...]:
    """Every node that somebody holds, of whichever RayCluster, and those that it gave back lately."""
    nodes = tuple(node for pod in shared.cache[POD].of(whose) if (node := observation.node_of(pod)) is not None)
    return shared.with_gone(whose, nodes)


def endpoint_of(shared: Shared, held: list[Object], token: Path, owner: Owner, namespace: str) -> Endpoint | None:
    """Where the Ray of a ready head is; None where its token can't be had any more."""
    if not token.exists():
        found = read_token(shared, owner, namespace)
        if found is None:
            return None
        write_secret(token, found)
    return observation.endpoint(held, str(token))


def apply(shared: Shared, kind: Kind, manifest: Object, *, force: bool) -> Object:
    """Apply an object and take in the answer; what is kept of it. Raises Unavailable while its namespace is missing."""
    try:
        return shared.cache[kind].learn(shared.api.apply(kind, manifest, force=force))
    except NotFound as exc:
        raise _no_place(f"{kind.name} '{manifest['metadata']['name']}'", exc) from exc


def merge(shared: Shared, kind: Kind, held: Object, change: Object) -> None:
    """Change some fields of the very object that is held, and take in the answer; one that is gone is success."""
    meta = held["metadata"]
    same = {**change, "metadata": {"uid": meta["uid"]}}  # another one of that name makes it a conflict
    with suppress(NotFound):
        shared.cache[kind].learn(shared.api.merge(kind, meta["name"], meta["namespace"], same))


def is_leaving(obj: Object) -> bool:
    """Whether an object's deletion was asked for."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def delete(shared: Shared, kind: Kind, held: Object, *, empties_redis: bool = False) -> None:
    """Delete an object, which is gone only when all that belongs to it is.

    ``empties_redis``: KubeRay does that by a job of the object's, which must not be taken away before it has.
    """
    if is_leaving(held):
        return
    meta = held["metadata"]
    propagation: Literal["Background", "Foreground"] = "Background" if empties_redis else "Foreground"
    shared.api.delete(kind, meta["name"], meta["namespace"], uid=meta["uid"], propagation=propagation)
    shared.cache[kind].learn_deletion(held)


def renew(shared: Shared, kind: Kind, held: Object | None, owner: Owner, texts: Mapping[str, str], token: Path) -> None:
    """Change an object's Secret where it holds other secrets, and what is noted of it. What is not there, or was never
    given its Secret (that is ``put_secrets``'s to do), is success. Raises Unavailable if its namespace is gone."""
    if held is None or is_leaving(held) or SECRETS_HASH not in (held["metadata"].get("annotations") or {}):
        return
    put_secrets(shared, kind, held, owner, texts, token)


def put_secrets(
    shared: Shared,
    kind: Kind,
    obj: Object,
    owner: Owner,
    secret_texts: Mapping[str, str],
    token: Path,
    *,
    new: bool = False,
    doubt: bool = False,
) -> None:
    """Give an object its Secret, which goes when it goes, and note on it that it has it.

    What is noted is taken for true but in ``doubt``. A token that its pods know already stays, where the Secret or this
    gateway has it; of an object that is ``new`` they know none. Raises Unavailable if it, or its namespace, is gone.
    """
    texts = dict(secret_texts)
    if shared.settings.redis_password_path is not None and kind is not RAYJOB:  # its head keeps nothing
        texts[REDIS_PASSWORD] = read_secret(shared.settings.redis_password_path)
    noted = {SECRETS_HASH: compare.digest(texts)}
    meta = obj["metadata"]
    before = (meta.get("annotations") or {}).get(SECRETS_HASH)
    if before == noted[SECRETS_HASH] and not doubt:
        return
    namespace = meta["namespace"]
    ray = None if new else read_token(shared, owner, namespace)
    if ray is not None and before == noted[SECRETS_HASH]:
        return
    ray = ray or (read_secret(token) if token.exists() else secrets.token_urlsafe(32))
    try:
        shared.api.apply(SECRET, _secret(kind, meta, owner, {**texts, pods.AUTH_TOKEN: ray}))
        write_secret(token, ray)
        shared.cache[kind].learn(shared.api.merge(kind, meta["name"], namespace, {"metadata": {"annotations": noted}}))
    except NotFound as exc:
        raise _no_place(f"Secret '{owner.secret}'", exc) from exc


def _no_place(what: str, exc: NotFound) -> Unavailable:
    return Unavailable(
        f"{what} can't be made, its place is not there: {exc.detail}", remedy="It is made when the team is onboarded."
    )


def read_token(shared: Shared, owner: Owner, namespace: str) -> str | None:
    """Ray's own token, as the object's Secret has it; None without one."""
    try:
        found = shared.api.get(SECRET, owner.secret, namespace)
    except NotFound:
        return None
    if (found["metadata"].get("labels") or {}).get(UID) != owner.uid:
        return None
    return base64.b64decode(found.get("data", {}).get(pods.AUTH_TOKEN, "")).decode() or None


def _secret(kind: Kind, meta: Object, owner: Owner, texts: dict[str, str]) -> Object:
    belongs = {"apiVersion": kind.api_version, "kind": kind.name, "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": owner.secret,
            "namespace": meta["namespace"],
            "labels": owner.labels,
            "ownerReferences": [{**belongs, "blockOwnerDeletion": True}],
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in sorted(texts.items())},
    }
