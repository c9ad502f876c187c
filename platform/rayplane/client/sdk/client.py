"""The client: an attribute for each noun of the table, and what concerns no single noun."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rayplane.client.sdk.answers import Items
from rayplane.client.sdk.apply import Applier, Change
from rayplane.client.sdk.clock import Clock
from rayplane.client.sdk.nouns import OWN_VERBS, Clusters, Datasets, Jobs, Noun, Pipelines, Teams
from rayplane.client.sdk.packages import Packages
from rayplane.client.sdk.paths import quoted
from rayplane.client.sdk.transport import Transport
from rayplane.nouns import NOUNS
from rayplane.nouns.base import Document
from rayplane.nouns.cluster import ClusterUsage, Lease
from rayplane.nouns.events import Edge
from rayplane.nouns.noun_type import AnyNoun
from rayplane.nouns.plan import Plan


class Client(Transport):
    """A connection to one gateway.

    ``url`` defaults to RAYPLANE_URL and ``token_path`` to RAYPLANE_TOKEN_PATH; without these, both come from the home,
    to which `rayplane up` writes them. Nothing is read or sent before the first call. All errors are of
    ``rayplane.errors``: Unavailable if the gateway can't be reached. All waits take their time from ``clock``.
    """

    # The table of nouns makes these; they are written out for editors and type checkers.
    teams: Teams
    clusters: Clusters
    jobs: Jobs
    pipelines: Pipelines
    datasets: Datasets
    features: Noun
    models: Noun
    services: Noun

    def __init__(
        self, url: str | None = None, token_path: str | Path | None = None, *, clock: Clock | None = None
    ) -> None:
        super().__init__(url, token_path, clock=clock)
        for noun in NOUNS:
            setattr(self, noun.plural, OWN_VERBS.get(noun.kind, Noun)(self, noun))
        self.packages = Packages(self)
        self._applier = Applier(self, self.packages)

    def info(self) -> dict[str, Any]:
        """The platform's versions and URLs, and the principal of this client's token."""
        info: dict[str, Any] = self.json("GET", "/v1/info")
        return info

    def noun(self, noun: AnyNoun) -> Noun:
        """The attribute of this client for a noun."""
        attribute: Noun = getattr(self, noun.plural)
        return attribute

    def apply_documents(
        self, documents: list[Document], *, team: str | None = None, dry_run: bool = False
    ) -> list[Change]:
        """Create or change objects as the documents say, in the order of the table of nouns.

        ``team`` is the team of documents that name none. A ``package`` that is a folder's path is uploaded and replaced
        by its content address. All documents are checked together, here and by the gateway's plan, before any is
        written: if one is wrong, the call raises and writes nothing. If a later write still fails, the error lists the
        objects that were written before it.
        """
        return self._applier.apply(documents, team=team, dry_run=dry_run)

    def plan(self, documents: list[Document], *, team: str | None = None) -> Plan:
        """Plan the documents together: changes, reasons that forbid them, and the cost; nothing is written.

        ``team`` is the team of documents that name none. A ``package`` that is a folder's path counts as uploaded.
        """
        return self._applier.plan(documents, team=team)

    def lineage(self, team: str, node: str, direction: Literal["up", "down"] = "up") -> list[Edge]:
        """Lineage edges that lead to a node (``up``) or from it (``down``), over any number of steps."""
        params = {"node": node, "direction": direction}
        return self.read(Items[Edge], "GET", f"/v1/teams/{quoted(team)}/lineage", params=params).items

    def leases(self, team: str, *, open_only: bool = False) -> list[Lease]:
        """The team's entries in the ledger: compute that it held or holds."""
        path = f"/v1/teams/{quoted(team)}/leases"
        return [Lease.model_validate(item) for item in self.pages(path, {"open_only": str(open_only).lower()})]

    def usage(self, team: str, *, since: datetime | None = None, until: datetime | None = None) -> list[ClusterUsage]:
        """Usage of each cluster of the team between two instants, in resource-seconds, including deleted clusters."""
        span = {key: at.isoformat() for key, at in (("since", since), ("until", until)) if at is not None}
        return self.read(Items[ClusterUsage], "GET", f"/v1/teams/{quoted(team)}/usage", params=span).items

    def audit(
        self, team: str | None = None, *, since: datetime | None = None, action: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """The audit log, newest first, page by page: that of a team, or the whole log (for admins of the platform)."""
        filters = (("since", since and since.isoformat()), ("action", action))
        path = "/v1/audit" if team is None else f"/v1/teams/{quoted(team)}/audit"
        return self.pages(path, {key: value for key, value in filters if value is not None})
