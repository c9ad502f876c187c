"""What `why` is told: an object, what the platform decided of it, what was seen below. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rayplane.gateway.backends.base import Evidence
from rayplane.nouns.base import Object
from rayplane.nouns.why import Cause


@dataclass(frozen=True)
class Facts:
    """About one object, at one instant."""

    obj: Object
    now: datetime
    evidence: Sequence[Evidence] = ()
    """What the backend knows of its nodes."""
    silence: str = ""
    """Why the backend could not be asked; empty where it answered."""
    verdicts: Sequence[Verdict] = ()
    """What admission has against it now."""
    depends: Sequence[Cause] = ()
    """Why what it needs (its cluster, its job) is not as wanted."""
    depends_on: str = ""
    """What that is, such as ``cluster 'growth/dev'``; empty where nothing is needed, or it is as wanted."""
    link: str = "waits for"
    """How it depends on that: ``waits for``, or ``runs on`` what has trouble of its own."""
    last_words: str = ""
    """The end of its log, for a job that failed."""

    @property
    def where(self) -> str:
        """``cluster 'growth/dev'``."""
        return title(self.obj)


@dataclass(frozen=True)
class Verdict:
    """A reason of admission against an object."""

    code: str
    """``quota``, ``preflight``, ``size-gone`` or ``team-not-onboarded``."""
    message: str
    remedy: str = ""
    likely: bool = False
    """Whether it may not be what holds the object up: it was let in before."""


def title(obj: Object) -> str:
    """How an object is called in a sentence."""
    team = obj.metadata.team
    name = f"{team}/{obj.metadata.name}" if team else obj.metadata.name
    return f"{obj.kind.lower() if obj.kind != 'PipelineRun' else 'run'} '{name}'"
