"""Explain why a pod's containers do not run or answer, from their states and the kubelet's messages. Pure."""

from __future__ import annotations

import re

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.why.words import cause, clip, node_of
from rayplane.nouns.why import Cause

_PULL = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError")
_IMAGE = re.compile(r'(?:pull(?:ing)? (?:and unpack )?image|to apply default image tag|image) \\?"([^"\\]+)\\?"')
_UNAUTHORIZED = re.compile(
    r"\b(?:unauthorized|authorization failed|denied|forbidden|no basic auth)\b|(?<![\w.:-])40[13](?![\w-])"
)
_NAMES = re.compile(r'\\?"[^"\s]*"|\S*/\S+')
"""Images, addresses and digests in a message: quoted words, and words with a slash."""
_LAST_OUTPUT = r"Message:(.*?)(?:,StartedAt:|$)"
"""The last output of a container that ended, in the operator's event, which may be truncated."""
_MEMORY = "Choose a larger size, or have the code hold less at once."


def container(fact: Evidence, where: str) -> Cause | None:
    """The cause behind evidence of a container; None for any other evidence."""
    who, said = node_of(fact, where), fact.message
    if fact.reason == "InvalidImageName":
        sentence = f"{who} can't start: its image's name can't be read: {clip(said)}."
        return cause("image-name-invalid", sentence, "Have the platform's admin correct the image's name.", fact)
    if fact.reason in _PULL:
        return _of_image(fact, who)
    if fact.reason in ("CreateContainerConfigError", "FailedMount", "FailedAttachVolume"):
        return _of_configuration(fact, who)
    if fact.reason in ("CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun"):
        sentence = f"{who} can't start its container: {clip(said)}."
        return cause("container-start", sentence, "Have the platform's admin correct the image or its command.", fact)
    if fact.reason in ("FailedCreatePodSandBox", "FailedPodSandBoxStatus"):
        sentence = f"The node of {_lower(who)} can't make its pod: {clip(said)}."
        return cause("pod-sandbox", sentence, "The node's network or runtime is broken: see it, or drain it.", fact)
    if fact.reason in ("OOMKilled", "CrashLoopBackOff", "Terminated", "DeletedHeadPod", "DeletedWorkerPod", "Error"):
        return _of_end(fact, who)
    if fact.reason in ("Evicted", "Preempted", "TaintManagerEviction"):
        sentence = f"{who} was evicted from its node: {clip(said)}."
        return cause("evicted", sentence, "It is made again where there is room; a larger size is evicted later.", fact)
    if fact.reason in ("NodeLost", "NodeNotReady", "NodeShutdown", "Terminated node"):
        sentence = f"The node of {_lower(who)} does not answer: {clip(said)}."
        return cause("node-lost", sentence, "See the node: kubectl describe node.", fact)
    if fact.reason == "Unhealthy":
        sentence = f"{who} runs but does not answer its probe: {clip(said)}."
        remedy = "It may still be starting; if this goes on, see its log: kubectl logs."
        return cause("probe-failing", sentence, remedy, fact)
    if fact.reason == "DashboardSilent":
        sentence = f"{who} runs, but its dashboard does not answer: {clip(said)}."
        remedy = "It may be busy; check that the gateway can reach the pod, and see its log."
        return cause("head-not-answering", sentence, remedy, fact)
    if fact.reason == "Terminating":
        sentence = f"{who} does not go: {clip(said)}."
        remedy = "See what its finalizers wait for, and whether its node and the operator run."
        return cause("stuck-terminating", sentence, remedy, fact)
    return None


def _of_image(fact: Evidence, who: str) -> Cause:
    said = fact.message
    match = _IMAGE.search(said)
    image = f"its image '{match[1]}'" if match else "its image"
    lower = said.lower()
    if re.search(r"no such host|dial tcp|connection refused|i/o timeout|tls handshake|registryunavailable", lower):
        sentence = f"{who} can't start: the registry of {image} does not answer ({clip(_cause_of(said), 160)})."
        remedy = "Check that the nodes reach the registry, or have the platform's admin name another."
        return cause("registry-unreachable", sentence, remedy, fact)
    if _UNAUTHORIZED.search(_without_names(lower)):
        sentence = f"{who} can't start: the registry refuses to give out {image}."
        remedy = "Have the platform's admin give the team's service account an image pull secret, or correct the name."
        return cause("image-unauthorized", sentence, remedy, fact)
    if re.search(r"not found|manifest unknown|does not exist|no match for platform|is not present", lower):
        sentence = f"{who} can't start: {image} is not there."
        return cause("image-not-found", sentence, "Push it, or have the platform's admin name one that is there.", fact)
    sentence = f"{who} can't start: {image} can't be pulled: {clip(_cause_of(said))}."
    return cause("image-pull", sentence, "Check that the image is there and that the nodes may pull it.", fact)


def _without_names(said: str) -> str:
    """A message without the names in it, which may contain any word or number: a tag `20240103`, a digest."""
    match = _IMAGE.search(said)
    return _NAMES.sub(" ", said.replace(match[1], " ") if match else said)


def _of_configuration(fact: Evidence, who: str) -> Cause:
    said = fact.message
    if match := re.search(r'(secret|configmap) \\?"([^"\\]+)\\?" not found', said, re.IGNORECASE):
        kind = {"secret": "Secret", "configmap": "ConfigMap"}[match[1].lower()]
        sentence = f"{who} can't start: its {kind} '{match[2]}' is not there."
    elif match := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", said):
        sentence = f"{who} can't start: its {match[2]} '{match[3].rstrip('.')}' has no key '{match[1]}'."
    elif fact.reason == "CreateContainerConfigError":
        sentence = f"{who} can't start: its configuration is wrong: {clip(said)}."
    else:
        sentence = f"{who} can't start: a volume can't be mounted: {clip(said)}."
        return cause("volume-mount", sentence, "See the volume and its claim: kubectl describe pvc.", fact)
    remedy = "The platform writes it with the cluster: apply the cluster again, or have its admin make it."
    return cause("config-missing", sentence, remedy, fact)


def _of_end(fact: Evidence, who: str) -> Cause | None:
    said = fact.message
    deleted = fact.reason.startswith("Deleted")
    code = re.search(r"(?:exit code |ExitCode:)(-?\d+)", said)
    if code is None or (code[1] == "0" and fact.reason != "CrashLoopBackOff"):
        return None
    if fact.reason == "OOMKilled" or "Reason:OOMKilled" in said:
        sentence = f"{who} ran out of memory and was killed{_times(fact)}."
        return cause("out-of-memory", sentence, _MEMORY, fact)
    if "Reason:StartError" in said or "Reason:ContainerCannotRun" in said:
        sentence = f"{who} can't start its container: {clip(_after(_LAST_OUTPUT, said))}."
        return cause("container-start", sentence, "Have the platform's admin correct the image or its command.", fact)
    words = _after(_LAST_OUTPUT, said) if deleted else _after(r"exit code -?\d+: (.*)", said)
    last = f" Its last words: {_ending(words)}." if words else ""
    sentence = f"{who} ends with exit code {code[1]}{_times(fact)}.{last}"
    if code[1] == "137" and not words:
        sentence = f"{who} was killed (exit code 137){_times(fact)}: by a probe that failed, or for its memory."
    remedy = "See its log: kubectl logs --previous; then correct what it starts, or its environment."
    return cause("crash-loop", sentence, remedy, fact)


def _ending(words: str, most: int = 300) -> str:
    """The last lines of a process' output, joined, as many as fit: the reason of its death comes last."""
    tail = ""
    for line in reversed([line.strip() for line in words.splitlines() if line.strip()]):
        longer = f"{line} | {tail}" if tail else line
        if tail and len(longer) > most:
            break
        tail = longer
    return clip(tail, most)


def _times(fact: Evidence) -> str:
    return f" again and again ({fact.count} times)" if fact.count > 1 else ""


def _after(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.DOTALL)
    return match[1].strip() if match else ""


def _cause_of(said: str) -> str:
    """The innermost part of a chain of errors, which is the most specific."""
    return said.rpartition(": ")[2] if said.count(": ") > 3 else said


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
