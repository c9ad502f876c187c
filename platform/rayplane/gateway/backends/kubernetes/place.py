"""Make a team's place as it is wanted, put right what drifted, and take it away. In steady state it asks nothing."""

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


class Places:
    """The places of all teams. Thread-safe as long as no two threads act on one team."""

    def __init__(
        self, api: KubeApi, cache: Cache, settings: KubernetesSettings, root: str, *, changed: Callable[[str], None]
    ) -> None:
        """``changed`` is called with a team's uid when somebody changed something of its place."""
        self._api = api
        self._cache = cache
        self._settings = settings
        self._root = root
        self._kinds: tuple[Kind, ...] = KINDS
        if pods.folder(root) is not None and settings.storage_volume is not None:
            self._kinds = (*KINDS, VOLUME, CLAIM)
        for kind in self._kinds:
            cache.add(kind, trim=without_managed_fields, told=self._told)
        self._changed = changed
        self._own_claims: set[str] = set()

    def ensure(self, ref: TeamRef, spec: TeamSpec) -> str:
        """Make it so; what is missing yet, empty once it is all there."""
        self._cache.require(*self._kinds)
        namespace = self._settings.namespace(ref.name)
        held = self._cache[NAMESPACE].get("", namespace)
        if held is None:
            self._refuse_a_strangers(namespace)
        elif held["metadata"].get("deletionTimestamp"):
            return f"Namespace '{namespace}' of an earlier team is being deleted. {_what_holds(held)}".strip()
        elif _is_anothers(held, ref):
            self._delete(held)
            return f"Namespace '{namespace}' of an earlier team is being deleted."
        for kind, manifest in team.place(ref, spec, self._settings, self._root):
            meta = manifest["metadata"]
            there = self._cache[kind].get(meta.get("namespace", ""), meta["name"])
            exact = _EXACT.get(kind, ())
            difference = compare.drift(manifest, there, exact=exact) if there is not None else "it is missing"
            if not difference:
                continue
            log.info("team %s: %s '%s' is put right: %s", ref, kind.name, meta["name"], difference)
            try:
                self._cache[kind].learn(self._api.apply(kind, manifest))
            except Forbidden:
                if kind is NAMESPACE or not self._is_new(namespace):
                    raise
                return f"The gateway's rights in namespace '{namespace}' are not in force yet."
        return self._storage(ref, namespace)

    def delete(self, ref: TeamRef) -> str:
        """Ask for it to go; what is left of it, empty once nothing is."""
        self._cache.require(*self._kinds)
        namespace = self._settings.namespace(ref.name)
        self._own_claims.discard(namespace)  # it goes with the namespace, and a team of that name needs one anew
        held = self._cache[NAMESPACE].get("", namespace)
        if held is not None and _is_of(held, ref):
            if not held["metadata"].get("deletionTimestamp"):
                self._delete(held)
            return f"Namespace '{namespace}' is being deleted. {_what_holds(held)}".strip()
        if VOLUME in self._kinds:
            volume = self._cache[VOLUME].get("", team.volume_name(namespace))
            if volume is not None and _is_of(volume, ref):
                self._delete_volume(volume)
                return f"PersistentVolume '{volume['metadata']['name']}' is being deleted."
        return ""

    def _told(self, before: Object | None, after: Object | None) -> None:
        """Pass on what is more than status: a quota's use changes with every pod."""
        if before is None or after is None or _asked(before) != _asked(after):
            some = after or before
            assert some is not None  # a change has at least one side
            self._changed((some["metadata"].get("labels") or {}).get(UID, ""))

    def _delete(self, held: Object) -> None:
        self._api.delete(NAMESPACE, held["metadata"]["name"], uid=held["metadata"]["uid"])
        self._cache[NAMESPACE].learn_deletion(held)

    def _delete_volume(self, volume: Object) -> None:
        if not volume["metadata"].get("deletionTimestamp"):
            self._api.delete(VOLUME, volume["metadata"]["name"], uid=volume["metadata"]["uid"])
            self._cache[VOLUME].learn_deletion(volume)

    def _refuse_a_strangers(self, namespace: str) -> None:
        """Raise Conflict if there is a namespace of that name which the platform did not make."""
        try:
            there = self._api.get(NAMESPACE, namespace)
        except NotFound:
            return
        if (there["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER:
            raise Conflict(
                f"Namespace '{namespace}' is there and is not the platform's.",
                remedy=f"Remove it, or label it {MANAGED_BY}={MANAGER} to hand it over.",
            )

    def _is_new(self, namespace: str) -> bool:
        """Whether the API server may not yet act by the binding that gives the gateway its rights there."""
        held = self._cache[ROLE_BINDING].get(namespace, team.GATEWAY_BINDING)
        if held is None:
            return True  # not even the answer to its making has come in
        return (datetime.now(UTC) - instant(held["metadata"]["creationTimestamp"])).total_seconds() < _RIGHTS_TAKE

    def _storage(self, ref: TeamRef, namespace: str) -> str:
        """What the team's part of the storage root still lacks, where that is a folder."""
        path = pods.folder(self._root)
        if path is None:
            return ""
        self._make_folder(Path(path) / ref.name)
        claim = self._settings.storage_claim
        if CLAIM in self._kinds:
            there = self._cache[CLAIM].get(namespace, claim)
            if (there or {}).get("status", {}).get("phase") == "Bound":
                return ""
            volume = self._cache[VOLUME].get("", team.volume_name(namespace))
            if volume is not None and _is_of(volume, ref) and volume.get("status", {}).get("phase") == "Released":
                self._delete_volume(volume)  # it waits for a claim that is gone; its files stay, and it is made anew
            return f"PersistentVolumeClaim '{namespace}/{claim}' is not bound yet."
        if namespace not in self._own_claims:
            try:
                self._api.get(CLAIM, claim, namespace)
            except NotFound:
                return (
                    f"Namespace '{namespace}' needs a PersistentVolumeClaim '{claim}' of the volume with the storage "
                    "root. Make it, or set RAYPLANE_KUBERNETES_STORAGE_VOLUME."
                )
            self._own_claims.add(namespace)
        return ""

    def _make_folder(self, folder: Path) -> None:
        # Were it missing, the node would make it, as root's.
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageFull(
                f"The folder '{folder}' of a team can't be made: {exc.strerror}.", remedy="Mend the storage root."
            ) from exc


_RIGHTS_TAKE = 30.0
_EXACT: dict[Kind, tuple[str, ...]] = {NETWORK_POLICY: ("spec",), ROLE_BINDING: ("subjects", "roleRef")}
"""What opens more than was asked for if it only says more."""


def _is_of(obj: Object, ref: TeamRef) -> bool:
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return labels.get(UID) == ref.uid


def _is_anothers(obj: Object, ref: TeamRef) -> bool:
    """Whether it is an earlier team's of that name; one without a mark was handed over by whoever labelled it."""
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return labels.get(UID, ref.uid) != ref.uid


def _asked(obj: Object) -> Object:
    meta = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": meta}


def _what_holds(namespace: Object) -> str:
    """What the API server says is left in a namespace that is being deleted."""
    said = [
        str(condition.get("message"))
        for condition in (namespace.get("status") or {}).get("conditions") or []
        if condition["type"] in ("NamespaceContentRemaining", "NamespaceFinalizersRemaining")
        and condition["status"] == "True"
    ]
    return " ".join(said)
