"""Explain why no node takes a pod, from the scheduler's own message. Pure."""

from __future__ import annotations

import re

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.why.words import cause, clip, node_of
from rayplane.nouns.why import Cause

# The scheduler's words, by Kubernetes 1.36: "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated
# taint(s). preemption: ...". Each entry is a pattern, a code, and the words for our sentence.
_WORDS: tuple[tuple[str, str, str], ...] = (
    (r"Insufficient nvidia\.com/gpu|Insufficient \S*gpu\S*", "insufficient-gpu", "too few GPUs free"),
    (r"Insufficient memory", "insufficient-memory", "too little memory free"),
    (r"Insufficient cpu", "insufficient-cpu", "too few cores free"),
    (r"Insufficient \S+|Too many pods", "insufficient-other", "no room left"),
    (
        r"node\(s\) had untolerated taints?(?:\(s\))?(?: \{[^}]*\})?",
        "untolerated-taint",
        "a taint that it does not tolerate",
    ),
    (r"node\(s\) didn't match Pod's node affinity/selector", "node-selector", "not the labels that its pod asks for"),
    (r"node\(s\) didn't (?:match|satisfy) [^,.]*", "node-selector", "not what its pod's affinity asks for"),
    (r"node\(s\) were unschedulable", "nodes-cordoned", "been cordoned"),
    (
        r"node\(s\) had (?:volume node affinity conflict|no available volume zone)",
        "volume-unbound",
        "not the place of its volume",
    ),
    (r"node\(s\) didn't find available persistent volumes to bind", "volume-unbound", "no volume for its claim"),
    (r"node\(s\) didn't have free ports[^,.]*", "insufficient-other", "not its port free"),
)

_FILTERED_FIRST = ("untolerated-taint", "node-selector", "nodes-cordoned")
"""Codes that rule a node out for good. A node that only lacks room or a volume could take the pod."""

_REMEDIES = {
    "insufficient-cpu": "Choose a smaller size or fewer workers, suspend what is idle, or add a node.",
    "insufficient-memory": "Choose a smaller size or fewer workers, suspend what is idle, or add a node.",
    "insufficient-gpu": "Choose a size without GPUs, wait until some are free, or add a node that has them.",
    "insufficient-other": "Suspend what is idle, or add a node.",
    "untolerated-taint": "Remove the taint (kubectl describe node), or have the platform's admin tolerate it.",
    "node-selector": "Label a node as asked (kubectl label node), or have the platform's admin ask for other labels.",
    "nodes-cordoned": "Give the nodes back with 'kubectl uncordon', or add one.",
    "volume-unbound": "See what the claim waits for: kubectl describe pvc. It needs a storage class that has room.",
    "volume-missing": "Make the PersistentVolumeClaim, or have the platform's admin name one that is there.",
    "no-nodes": "Add a node, or wait until one is ready: kubectl get nodes.",
    "unschedulable": "See the pod's events: kubectl describe pod.",
}


def scheduling(fact: Evidence, where: str) -> Cause | None:
    """The cause behind a pod without a node; None for any other evidence."""
    if fact.reason == "SchedulingGated":
        sentence = f"{node_of(fact, where)} is held back by a scheduling gate: {clip(fact.message)}."
        return cause("kueue-pending", sentence, "Wait for its queue, or see it: kubectl describe workload.", fact)
    if fact.reason != "Unschedulable":
        return None
    who, said = node_of(fact, where), fact.message
    missing = re.search(r'persistentvolumeclaim "([^"]+)" not found', said)
    if missing:
        sentence = f"{who} has no node: its PersistentVolumeClaim '{missing[1]}' is not there."
        return cause("volume-missing", sentence, _REMEDIES["volume-missing"], fact)
    if "unbound immediate PersistentVolumeClaims" in said or "waiting for a volume to be created" in said:
        sentence = f"{who} has no node: its PersistentVolumeClaim is not bound to a volume."
        return cause("volume-unbound", sentence, _REMEDIES["volume-unbound"], fact)
    if "no nodes available" in said:
        return cause("no-nodes", f"{who} has no node: there is none at all.", _REMEDIES["no-nodes"], fact)
    reasons = _reasons(said)
    if not reasons:
        return cause("unschedulable", f"{who} has no node: {clip(said)}.", _REMEDIES["unschedulable"], fact)
    nodes = re.match(r"0/(\d+) nodes", said)
    total = f"of {nodes[1]} node{'s' if nodes[1] != '1' else ''} " if nodes else ""
    summary = ", ".join(f"{count} {'has' if count == 1 else 'have'} {words}" for count, _, words in reasons)
    code = max(reasons, key=lambda r: (r[1] not in _FILTERED_FIRST, r[0]))[1]
    return cause(code, f"{who} has no node: {total}{summary}.", _REMEDIES[code], fact)


def _reasons(said: str) -> list[tuple[int, str, str]]:
    """(number of nodes, code, our words) of each reason, in the order of the scheduler's message."""
    body = said.partition("nodes are available:")[2].partition(". ")[0]
    reasons = []
    for part in re.split(r", (?=\d+ )", body.strip().rstrip(".")):
        count, _, words = part.strip().partition(" ")
        if not count.isdigit():
            continue
        for pattern, code, ours in _WORDS:
            if re.fullmatch(pattern, words.rstrip(".")):
                reasons.append((int(count), code, ours))
                break
    return reasons
