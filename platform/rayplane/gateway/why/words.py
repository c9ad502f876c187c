"""How causes are said: whose they are, and the clues behind them. Pure."""

from __future__ import annotations

from rayplane.gateway.backends.base import Evidence
from rayplane.nouns.why import Cause, Clue


def clue(fact: Evidence) -> Clue:
    """A fact from below as an answer shows it."""
    return Clue(
        source=fact.source, about=fact.about, reason=fact.reason, message=fact.message, at=fact.at, count=fact.count
    )


def cause(code: str, sentence: str, remedy: str, fact: Evidence, *, likely: bool = False) -> Cause:
    """A cause that one fact tells."""
    return Cause(
        code=code,
        sentence=sentence,
        remedy=remedy,
        certainty="likely" if likely else "certain",
        node=fact.node,
        evidence=[clue(fact)],
    )


def node_of(fact: Evidence, where: str) -> str:
    """``The head of cluster 'growth/dev'``; ``A worker of`` it; or the cluster itself."""
    if fact.node == "head":
        return f"The head of {where}"
    if fact.node == "worker":
        return f"A worker of {where}"
    return f"{where[0].upper()}{where[1:]}"


def clip(text: str, most: int = 300) -> str:
    """A foreign message in one line, with its end cut off where it is too long to be read, and no final full stop."""
    line = " ".join(text.split())
    line = line if len(line) <= most else f"{line[: most - 3]}..."
    return line.rstrip(".")
