"""Make, repair and delete the namespaces of teams with the objects in them. In steady state it makes no API call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rayplane.errors import Conflict, Forbidden, NotFound, StorageFull
from rayplane.gateway.backends.base import TeamRef
from rayplane.gateway.backends.kubernetes import compare, pods, team
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.cache import Cache, without_managed_fields
from rayplane.gateway.backends.kubernetes.kinds import (
    ACCOUNT,
    CLAIM,
    LIMITS,
    MANAGED_BY,
    MANAGER,
    NAMESPACE,
    NETWORK_POLICY,
    QUOTA,
    ROLE_BINDING,
    UID,
    VOLUME,
    Kind,
    Object,
    instant,
)
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.team import TeamSpec

log = logging.getLogger(__name__)

KINDS = (NAMESPACE, ROLE_BINDING, QUOTA, LIMITS, ACCOUNT, NETWORK_POLICY)


class TeamNamespaces:
    """The namespaces and volumes of all teams. Thread-safe as long as no two threads act on one team."""

    def __init__(
        self, api: KubeApi, cache: Cache, settings: KubernetesSettings, root: str, *, changed: Callable[[str], None]
    ) -> None:
        """``changed`` is called with a team's uid when one of its objects changes, other than in its status."""
        self._api = api
        self._cache = cache
        self._settings = settings
        self._root = root
        self._kinds: tuple[Kind, ...] = KINDS
        if pods.folder(root) is not None and settings.storage_volume is not None:
            self._kinds = (*KINDS, VOLUME, CLAIM)
        for kind in self._kinds:
            cache.add(kind, trim=without_managed_fields, on_change=self._on_change)
        self._changed = changed
        self._admin_claims: set[str] = set()

    def ensure(self, ref: TeamRef, spec: TeamSpec) -> str:
        """Make or repair a team's namespace and objects; returns what is still missing, empty once it is complete.

        Raises Conflict if the platform did not make the namespace, StorageFull if the team's folder can't be made.
        """
        self._cache.require(*self._kinds)
        namespace = self._settings.namespace(ref.name)
        present = self._cache[NAMESPACE].get("", namespace)
        if present is None:
            self._refuse_foreign(namespace)
        elif present["metadata"].get("deletionTimestamp"):
            return f"Namespace '{namespace}' of an earlier team is being deleted. {_remaining(present)}".strip()
        elif _is_of_earlier_team(present, ref):
            self._delete(present)
            return f"Namespace '{namespace}' of an earlier team is being deleted."
        for kind, manifest in team.place(ref, spec, self._settings, self._root):
            meta = manifest["metadata"]
            cached = self._cache[kind].get(meta.get("namespace", ""), meta["name"])
            exact = _EXACT.get(kind, ())
            difference = compare.drift(manifest, cached, exact=exact) if cached is not None else "it is missing"
            if not difference:
                continue
            log.info("team %s: %s '%s' is repaired: %s", ref, kind.name, meta["name"], difference)
            try:
                self._cache[kind].learn(self._api.apply(kind, manifest))
            except Forbidden:
                if kind is NAMESPACE or not self._is_new(namespace):
                    raise
                return f"The gateway's rights in namespace '{namespace}' are not in force yet."
        return self._storage(ref, namespace)

    def delete(self, ref: TeamRef) -> str:
        """Delete a team's namespace, then its volume; returns what is left, empty once nothing is."""
        self._cache.require(*self._kinds)
        namespace = self._settings.namespace(ref.name)
        self._admin_claims.discard(namespace)  # it goes with the namespace; a team of that name needs a new one
        present = self._cache[NAMESPACE].get("", namespace)
        if present is not None and _is_of(present, ref):
            if not present["metadata"].get("deletionTimestamp"):
                self._delete(present)
            return f"Namespace '{namespace}' is being deleted. {_remaining(present)}".strip()
        if VOLUME in self._kinds:
            volume = self._cache[VOLUME].get("", team.volume_name(namespace))
            if volume is not None and _is_of(volume, ref):
                self._delete_volume(volume)
                return f"PersistentVolume '{volume['metadata']['name']}' is being deleted."
        return ""

    def _on_change(self, before: Object | None, after: Object | None) -> None:
        """Report a change, unless it is one of status alone: a quota's use changes with every pod."""
        if before is None or after is None or _without_status(before) != _without_status(after):
            obj = after or before
            assert obj is not None  # a change has at least one side
            self._changed((obj["metadata"].get("labels") or {}).get(UID, ""))

    def _delete(self, present: Object) -> None:
        self._api.delete(NAMESPACE, present["metadata"]["name"], uid=present["metadata"]["uid"])
        self._cache[NAMESPACE].learn_deletion(present)

    def _delete_volume(self, volume: Object) -> None:
        if not volume["metadata"].get("deletionTimestamp"):
            self._api.delete(VOLUME, volume["metadata"]["name"], uid=volume["metadata"]["uid"])
            self._cache[VOLUME].learn_deletion(volume)

    def _refuse_foreign(self, namespace: str) -> None:
        """Raise Conflict if a namespace of that name exists that the platform did not make."""
        try:
            present = self._api.get(NAMESPACE, namespace)
        except NotFound:
            return
        if (present["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER:
            raise Conflict(
                f"Namespace '{namespace}' is there and is not the platform's.",
                remedy=f"Remove it, or label it {MANAGED_BY}={MANAGER} to hand it over.",
            )

    def _is_new(self, namespace: str) -> bool:
        """True while the gateway's role binding is so new that the API server may not apply it yet."""
        binding = self._cache[ROLE_BINDING].get(namespace, team.GATEWAY_BINDING)
        if binding is None:
            return True  # the cache does not even have the binding yet
        return (datetime.now(UTC) - instant(binding["metadata"]["creationTimestamp"])).total_seconds() < _RIGHTS_TAKE

    def _storage(self, ref: TeamRef, namespace: str) -> str:
        """Make the team's folder of a storage root on a file system; returns what its claim still lacks, else empty."""
        path = pods.folder(self._root)
        if path is None:
            return ""
        self._make_folder(Path(path) / ref.name)
        claim = self._settings.storage_claim
        if CLAIM in self._kinds:
            present = self._cache[CLAIM].get(namespace, claim)
            if (present or {}).get("status", {}).get("phase") == "Bound":
                return ""
            volume = self._cache[VOLUME].get("", team.volume_name(namespace))
            if volume is not None and _is_of(volume, ref) and volume.get("status", {}).get("phase") == "Released":
                self._delete_volume(volume)  # its claim is gone: it is made again, and its files stay
            return f"PersistentVolumeClaim '{namespace}/{claim}' is not bound yet."
        if namespace not in self._admin_claims:
            try:
                self._api.get(CLAIM, claim, namespace)
            except NotFound:
                return (
                    f"Namespace '{namespace}' needs a PersistentVolumeClaim '{claim}' of the volume with the storage "
                    "root. Make it, or set RAYPLANE_KUBERNETES_STORAGE_VOLUME."
                )
            self._admin_claims.add(namespace)
        return ""

    def _make_folder(self, folder: Path) -> None:
        # If it were missing, the node would make it, owned by root.
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageFull(
                f"The folder '{folder}' of a team can't be made: {exc.strerror}.",
                remedy="Check that the gateway can write to the storage root.",
            ) from exc


_RIGHTS_TAKE = 30.0
"""Seconds within which the API server applies a new role binding."""
_EXACT: dict[Kind, tuple[str, ...]] = {NETWORK_POLICY: ("spec",), ROLE_BINDING: ("subjects", "roleRef")}
"""Fields to compare exactly: an extra entry there would grant more than the platform wants."""


def _is_of(obj: Object, ref: TeamRef) -> bool:
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return labels.get(UID) == ref.uid


def _is_of_earlier_team(obj: Object, ref: TeamRef) -> bool:
    """True if it belongs to an earlier team of that name. One without a uid label was handed over by an admin."""
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return labels.get(UID, ref.uid) != ref.uid


def _without_status(obj: Object) -> Object:
    meta = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": meta}


def _remaining(namespace: Object) -> str:
    """The API server's message on what is left in a namespace that is being deleted."""
    messages = [
        str(condition.get("message"))
        for condition in (namespace.get("status") or {}).get("conditions") or []
        if condition["type"] in ("NamespaceContentRemaining", "NamespaceFinalizersRemaining")
        and condition["status"] == "True"
    ]
    return " ".join(messages)
