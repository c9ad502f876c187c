"""Explain refusals by Kubernetes, Kueue or the KubeRay operator, from their own messages. Pure."""

from __future__ import annotations

import re

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.why.words import cause, clip, node_of
from rayplane.nouns.why import Cause

_CREATION = ("FailedToCreateHeadPod", "FailedCreateHeadPod", "FailedToCreateWorkerPod", "FailedCreateWorkerPod")
_BEFORE_PODS = (
    *("FailedToCreateService", "FailedToCreateServiceAccount", "FailedToCreateRole", "FailedToCreateRoleBinding"),
    *("FailedToCreateIngress", "FailedToCreateRoute", "FailedToCreateRayCluster"),
)
"""Events of objects that the operator makes before any pod: if they fail, no pod is made."""
_ADMIN = "Have the platform's admin correct it; 'rayplane cluster apply' it again after that."


def refusal(fact: Evidence, where: str) -> Cause | None:
    """The cause behind a refusal; None for any other evidence."""
    if fact.reason in (*_CREATION, *_BEFORE_PODS, "FailedCreate", "FailedToCreateRayJobSubmitter"):
        return _of_creation(fact, where)
    if fact.reason == "NamespaceTerminating":
        sentence = f"The namespace of {where} is being deleted, and takes nothing new: {clip(fact.message)}."
        remedy = "Wait until it is gone; if a finalizer holds it, see what: kubectl get namespace -o yaml."
        return cause("namespace-terminating", sentence, remedy, fact)
    if fact.reason == "NamespaceMissing":
        sentence = f"The team of {where} has no namespace: {clip(fact.message)}."
        remedy = "It is made when the team is onboarded: rayplane why team/NAME says what that waits for."
        return cause("team-not-onboarded", sentence, remedy, fact)
    if fact.source == "operator" and fact.reason in ("Silent", "Down"):
        sentence = f"The KubeRay operator does not act on {where}: {clip(fact.message)}."
        remedy = "Check that it runs: kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator."
        return cause("operator-silent", sentence, remedy, fact, likely=fact.reason == "Silent")
    if fact.source == "operator" and fact.reason not in ("ValidationFailed", "Failed") and "Invalid" not in fact.reason:
        return None  # the status of a job or a service with nodes of its own has this already
    if fact.source == "operator":
        words = re.sub(r"^The Ray\w+ \w+ is invalid \S+:? ?", "", fact.message)
        sentence = f"The KubeRay operator refuses {where}: {clip(words)}."
        return cause("spec-refused", sentence, "Change the spec as it says. " + _ADMIN, fact)
    if fact.source == "quota" and fact.about.startswith("workload/"):
        return _of_kueue(fact, where)
    if fact.reason == "AutoscalerServiceAccountNotFound":
        sentence = f"{node_of(fact, where)} can't be made: {clip(fact.message)}."
        return cause("service-account-missing", sentence, _ADMIN, fact)
    return None


def _of_creation(fact: Evidence, where: str) -> Cause:
    who, said = node_of(fact, where), fact.message
    if match := re.search(r"exceeded quota: ([^,]+), requested: (.+?), used: (.+?), limited: ([^;]+)", said):
        name, asked, used, limit = (part.strip() for part in match.groups())
        sentence = (
            f"{who} does not fit into the ResourceQuota '{name}' of its namespace: "
            f"it asks for {asked}, {used} is used of {clip(limit)}."
        )
        remedy = "Suspend or delete another cluster of the team, ask for a smaller size, or have the quota raised."
        return cause("namespace-quota", sentence, remedy, fact)
    if match := re.search(r"failed quota: (.+)", said):
        sentence = f"{who} is refused by a ResourceQuota: {clip(match[1])}."
        return cause("namespace-quota", sentence, "Set what it asks for, in the size or in a LimitRange.", fact)
    if match := re.search(r"((?:maximum|minimum) \S+ usage per \w+ is [^,\]]+, but \w+ is [^,\].]+)", said):
        sentence = f"{who} breaks the LimitRange of its namespace: {match[1]}."
        return cause("limit-range", sentence, "Choose a size within the range, or have the LimitRange changed.", fact)
    if match := re.search(r'violates PodSecurity "([^"]+)": (.+)', said):
        sentence = f"{who} breaks Pod Security '{match[1]}' of its namespace: {clip(match[2])}."
        return cause("pod-security", sentence, _ADMIN, fact)
    if match := re.search(
        r'service account \S+: serviceaccount "([^"]+)" not found|serviceaccount "([^"]+)" not found', said
    ):
        sentence = f"{who} can't be made: its service account '{match[1] or match[2]}' is not there."
        remedy = f"The platform makes it with the team. {_ADMIN}"
        return cause("service-account-missing", sentence, remedy, fact)
    if match := re.search(r'admission webhook "([^"]+)" denied the request: ?(.*)', said):
        sentence = f"{who} is denied by the admission webhook '{match[1]}': {clip(match[2])}."
        return cause("webhook-denied", sentence, "Ask the owner of this policy.", fact)
    if match := re.search(r"ValidatingAdmissionPolicy '([^']+)' with binding '[^']+' denied request: (.*)", said):
        sentence = f"{who} is denied by the admission policy '{match[1]}': {clip(match[2])}."
        return cause("webhook-denied", sentence, "Ask the owner of this policy.", fact)
    if "because it is being terminated" in said:
        sentence = f"The namespace of {where} is being deleted, and takes nothing new."
        return cause("namespace-terminating", sentence, "Wait until it is gone.", fact)
    return cause("pod-refused", f"{who} can't be made: {clip(said)}.", _ADMIN, fact)


def _of_kueue(fact: Evidence, where: str) -> Cause:
    said = clip(fact.message)
    if fact.reason == "Inadmissible" or re.search(r"(Local|Cluster)Queue.*(doesn't exist|not found|is inactive)", said):
        sentence = f"Kueue can't admit {where}: {said}."
        return cause("kueue-queue", sentence, "Have the platform's admin make the queue.", fact)
    sentence = f"Kueue holds {where} in its queue: {said}."
    remedy = "Wait until others of the queue end, ask for less, or have its quota raised."
    return cause("kueue-pending", sentence, remedy, fact)
