"""Input of `why`: an object, admission's verdicts on it, and the backend's evidence. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rayplane.gateway.backends.base import Evidence
from rayplane.gateway.store.typed import AnyObject
from rayplane.nouns.why import Cause


@dataclass(frozen=True)
class Facts:
    """Facts about one object at one instant."""

    obj: AnyObject
    now: datetime
    evidence: Sequence[Evidence] = ()
    """The backend's evidence about its nodes."""
    silence: str = ""
    """Reason why the backend did not answer; empty if it did."""
    verdicts: Sequence[Verdict] = ()
    """Admission's present verdicts against it."""
    depends: Sequence[Cause] = ()
    """Causes of the object that it depends on (its cluster, its job)."""
    depends_on: str = ""
    """Title of that object, such as ``cluster 'growth/dev'``; empty if there is none, or it is as wanted."""
    link: str = "waits for"
    """Verb between the two: ``waits for``, or ``runs on`` a cluster that has trouble of its own."""
    last_words: str = ""
    """The end of its log, for a job that failed."""

    @property
    def where(self) -> str:
        """``cluster 'growth/dev'``."""
        return title(self.obj)


@dataclass(frozen=True)
class Verdict:
    """A verdict of admission against an object."""

    code: str
    """``quota``, ``preflight``, ``size-gone`` or ``team-not-onboarded``."""
    message: str
    remedy: str = ""
    likely: bool = False
    """True if admission accepted the object before, so that this may not be the cause."""


def title(obj: AnyObject) -> str:
    """Name of an object in a sentence."""
    team = obj.metadata.team
    name = f"{team}/{obj.metadata.name}" if team else obj.metadata.name
    return f"{obj.kind.lower() if obj.kind != 'PipelineRun' else 'run'} '{name}'"
