"""Codes of all causes that `why` knows, the more fundamental first. Pure; docs/why.md explains each."""

from __future__ import annotations

CODES: tuple[str, ...] = (
    # A user or the platform wants it so.
    "deleting",
    "suspended",
    "suspended-idle",
    "lifetime-over",
    # The backend or the operator can't act, or refuses to.
    "backend-unreachable",
    "unsupported",
    "spec-refused",
    "namespace-terminating",
    "operator-silent",
    # The platform does not start it.
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
    # Its processes crash or are killed.
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
    # It has too few workers.
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

_INDEX = {code: index for index, code in enumerate(CODES)}


def index(code: str) -> int:
    """Position of a code in the order; an unknown code comes last."""
    return _INDEX.get(code, len(CODES))


GENERAL = frozenset({"starting", "stopping", "deploying", "waiting", "running", "workers-pending", "other"})
"""Codes that only say that something is not ready yet: `why` omits them if another cause says the reason."""
