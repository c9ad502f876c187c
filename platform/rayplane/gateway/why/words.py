"""Build causes, their clues and the words for their sentences. Pure."""

from __future__ import annotations

from rayplane.gateway.backends.base import Evidence
from rayplane.nouns.why import Cause, Clue


def clue(fact: Evidence) -> Clue:
    """Evidence of the backend as a clue of an answer."""
    return Clue(
        source=fact.source, about=fact.about, reason=fact.reason, message=fact.message, at=fact.at, count=fact.count
    )


def cause(code: str, sentence: str, remedy: str, fact: Evidence, *, likely: bool = False) -> Cause:
    """A cause with one piece of evidence."""
    return Cause(
        code=code,
        sentence=sentence,
        remedy=remedy,
        certainty="likely" if likely else "certain",
        node=fact.node,
        evidence=[clue(fact)],
    )


def node_of(fact: Evidence, where: str) -> str:
    """Subject of a sentence: ``The head of cluster 'growth/dev'``, ``A worker of`` it, or the cluster itself."""
    if fact.node == "head":
        return f"The head of {where}"
    if fact.node == "worker":
        return f"A worker of {where}"
    return f"{where[0].upper()}{where[1:]}"


def clip(text: str, most: int = 300) -> str:
    """A foreign message in one line of at most ``most`` characters, without a final full stop."""
    line = " ".join(text.split())
    line = line if len(line) <= most else f"{line[: most - 3]}..."
    return line.rstrip(".")
