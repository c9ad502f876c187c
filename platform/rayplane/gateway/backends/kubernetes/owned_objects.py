"""Parts of the backend that clusters, jobs and services share, and the Secret beside each of their objects."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayplane.errors import NotFound, Unavailable
from rayplane.gateway.backends.base import Evidence, Node, ObjectRef, Observation
from rayplane.gateway.backends.kubernetes import compare, evidence_query, observation, pods
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.cache import Cache, OwnerKey
from rayplane.gateway.backends.kubernetes.kinds import POD, RAYCLUSTER, RAYJOB, SECRET, UID, Kind, Object
from rayplane.gateway.backends.kubernetes.pods import Owner
from rayplane.gateway.backends.kubernetes.raycluster import REDIS_PASSWORD, SECRETS_HASH
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.cluster import Endpoint
from rayplane.nouns.environment import Environment
from rayplane.settings import read_secret, write_secret

RAY_CLUSTER = "ray.io/cluster"
"""KubeRay's label on pods: the name of their RayCluster."""


@dataclass(frozen=True)
class Shared:
    """Parts of the backend that ``Clusters``, ``Jobs`` and ``Services`` use."""

    api: KubeApi
    cache: Cache
    settings: KubernetesSettings
    root: str
    """URI of the storage root."""
    token_path: Callable[[str], Path]
    """Path of the 0600 file with a Ray's token, by the uid of its cluster or service, or by the attempt of its job."""
    environment: Callable[[], Environment]
    head_failure_of: Callable[[OwnerKey], observation.HeadFailure | None]
    """The head's failure that the reconciler has not handled yet, if any."""
    forget_head_failure: Callable[[OwnerKey], None]
    """Drop that failure: the reconciler has handled it."""
    with_gone: Callable[[OwnerKey, tuple[Node, ...]], tuple[Node, ...]]
    """An owner's present nodes, and those whose pods went recently."""
    problems_of: Callable[[Object], list[str]]
    """Problems of an object that its CustomResourceDefinition or KubeRay would refuse, each with its remedy."""

    def owner_key(self, ref: ObjectRef) -> OwnerKey:
        """The namespace and uid by which the cache finds its objects."""
        return OwnerKey(self.settings.namespace(ref.team), ref.uid)

    def evidence(self, ref: ObjectRef) -> list[Evidence]:
        """Evidence read from the API server now: a user asks, and the cache holds only what the reconciler needs."""
        return evidence_query.gather(self.api, self.settings, ref, token_path=self.token_path)


def look_at_cluster(
    shared: Shared, name: str, owner_key: OwnerKey, failure: observation.HeadFailure | None = None
) -> tuple[Observation, list[Object]]:
    """(observation of the RayCluster that KubeRay made for a job or a service, its pods). Empty name: not made yet."""
    its_pods = [pod for pod in shared.cache[POD].of(owner_key) if pod["metadata"]["labels"].get(RAY_CLUSTER) == name]
    cluster = shared.cache[RAYCLUSTER].get(owner_key.namespace, name) if name else None
    if cluster is not None and (cluster["metadata"].get("labels") or {}).get(UID) != owner_key.uid:
        cluster = None
    if cluster is not None:
        # It is KubeRay's: what was asked for, and its Secret, are noted on the object that it belongs to.
        cluster = {**cluster, "drift": "", "metadata": {**cluster["metadata"], "annotations": {SECRETS_HASH: ""}}}
    return observation.look(cluster, its_pods, failure), its_pods


def nodes_of(shared: Shared, owner_key: OwnerKey) -> tuple[Node, ...]:
    """Every node of a job or a service, over all of its RayClusters, and those whose pods went recently."""
    nodes = tuple(node for pod in shared.cache[POD].of(owner_key) if (node := observation.node_of(pod)) is not None)
    return shared.with_gone(owner_key, nodes)


def endpoint_of(shared: Shared, its_pods: list[Object], token: Path, owner: Owner, namespace: str) -> Endpoint | None:
    """Endpoint of a ready head's Ray; None if its token is lost."""
    if not token.exists():
        text = read_token(shared, owner, namespace)
        if text is None:
            return None
        write_secret(token, text)
    return observation.endpoint(its_pods, str(token))


def apply(shared: Shared, kind: Kind, manifest: Object, *, force: bool) -> Object:
    """Apply an object and take the answer into the cache; returns the trimmed object.

    Raises Unavailable while its namespace is missing.
    """
    try:
        return shared.cache[kind].learn(shared.api.apply(kind, manifest, force=force))
    except NotFound as exc:
        raise _no_place(f"{kind.name} '{manifest['metadata']['name']}'", exc) from exc


def merge(shared: Shared, kind: Kind, obj: Object, change: Object) -> None:
    """Change fields of the object with this uid, and take the answer into the cache; one already gone is success."""
    meta = obj["metadata"]
    same = {**change, "metadata": {"uid": meta["uid"]}}  # another one of that name makes it a conflict
    with suppress(NotFound):
        shared.cache[kind].learn(shared.api.merge(kind, meta["name"], meta["namespace"], same))


def is_leaving(obj: Object) -> bool:
    """True if the object is being deleted."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def delete(shared: Shared, kind: Kind, obj: Object, *, empties_redis: bool = False) -> None:
    """Delete an object, which goes only after everything that belongs to it.

    ``empties_redis``: KubeRay empties Redis by a Kubernetes Job that the object owns, which must not be deleted first.
    """
    if is_leaving(obj):
        return
    meta = obj["metadata"]
    propagation: Literal["Background", "Foreground"] = "Background" if empties_redis else "Foreground"
    shared.api.delete(kind, meta["name"], meta["namespace"], uid=meta["uid"], propagation=propagation)
    shared.cache[kind].learn_deletion(obj)


def renew(shared: Shared, kind: Kind, obj: Object | None, owner: Owner, texts: Mapping[str, str], token: Path) -> None:
    """Change an object's Secret where it holds other secrets, and what is noted of it. What is not there, or was never
    given its Secret (that is ``put_secrets``'s to do), is success. Raises Unavailable if its namespace is gone."""
    if obj is None or is_leaving(obj) or SECRETS_HASH not in (obj["metadata"].get("annotations") or {}):
        return
    put_secrets(shared, kind, obj, owner, texts, token)


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
    """Make an object's Secret, which it owns, and annotate the object with the hash of its contents.

    The annotation is trusted unless ``doubt`` is set. A token that the pods know already is kept, if the Secret or this
    gateway still has it; pods of a ``new`` object know none. Raises Unavailable if the object or its namespace is gone.
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
    """Ray's own token from the object's Secret; None if there is none."""
    try:
        secret = shared.api.get(SECRET, owner.secret, namespace)
    except NotFound:
        return None
    if (secret["metadata"].get("labels") or {}).get(UID) != owner.uid:
        return None
    return base64.b64decode(secret.get("data", {}).get(pods.AUTH_TOKEN, "")).decode() or None


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
