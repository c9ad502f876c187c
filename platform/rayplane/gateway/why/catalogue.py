"""Every cause that `why` knows, the more fundamental first. Pure: names and their order; docs/why.md explains each."""

from __future__ import annotations

CODES: tuple[str, ...] = (
    # Somebody wants it so.
    "deleting",
    "suspended",
    "suspended-idle",
    "lifetime-over",
    # Nothing below can act, or will.
    "backend-unreachable",
    "unsupported",
    "spec-refused",
    "namespace-terminating",
    "operator-silent",
    # The platform does not let it begin.
    "team-not-onboarded",
    "quota",
    "preflight",
    "size-gone",
    "not-looked-at",
    "reconcile-error",
    # Kubernetes refuses its pods.
    "namespace-quota",
    "limit-range",
    "pod-security",
    "service-account-missing",
    "webhook-denied",
    "kueue-queue",
    "kueue-pending",
    "pod-refused",
    # No node takes its pods.
    "volume-missing",
    "volume-unbound",
    "node-selector",
    "untolerated-taint",
    "insufficient-gpu",
    "insufficient-memory",
    "insufficient-cpu",
    "insufficient-other",
    "nodes-cordoned",
    "no-nodes",
    "unschedulable",
    # Its containers can't be made.
    "image-name-invalid",
    "image-not-found",
    "image-unauthorized",
    "registry-unreachable",
    "image-pull",
    "config-missing",
    "volume-mount",
    "pod-sandbox",
    "container-start",
    # Its processes end.
    "out-of-memory",
    "crash-loop",
    "evicted",
    "node-lost",
    "disk-full",
    "port-taken",
    "head-died",
    # They run, but do not answer.
    "token-refused",
    "token-not-renewed",
    "address-refused",
    "unreachable",
    "probe-failing",
    "head-not-answering",
    "stuck-terminating",
    # There is not enough of it.
    "autoscaler-infeasible",
    "autoscaler-at-max",
    "workers-pending",
    # Work.
    "cluster-missing",
    "model-missing",
    "serve-refused",
    "deploy-failed",
    "startup-timeout",
    "job-failed",
    "run-failed",
    "waiting",
    # Nothing is wrong yet, or nothing better is known.
    "starting",
    "stopping",
    "deploying",
    "running",
    "other",
)

_PLACE = {code: place for place, code in enumerate(CODES)}


def place(code: str) -> int:
    """Where a code stands in the order; one that is not known comes last."""
    return _PLACE.get(code, len(CODES))


GENERAL = frozenset({"starting", "stopping", "deploying", "waiting", "running", "workers-pending", "other"})
"""Codes that only say that something is not there yet: none is told beside a cause that says why."""
