"""The rules of teams."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.gateway.admission.env import check_names
from rayplane.gateway.store.typed import Team
from rayplane.gateway.usecases import team as teams
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.rules.base import Rules
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.nouns.team import TeamSpec, TeamStatus


class TeamRules(Rules):
    """A team names a backend that is offered here; its own admin gives it no more than the platform's admins did."""

    reconciled = True

    def before(self, draft: Draft) -> Iterator[Check]:
        yield from super().before(draft)
        spec: TeamSpec = draft.spec
        members = {str(index): name for index, name in enumerate(spec.members)}
        yield Check("members", lambda: check_names(members, "team.members"))
        yield Check("backend", lambda: teams.check_backend(spec.backend, "team.backend", draft.platform))

    def reserve(self, draft: Draft) -> Iterator[Check]:
        if draft.ask:  # a principal that may not write the team at all gets that error alone
            yield Check("grant", lambda: teams.check_grant(draft.name, draft.before, draft.spec, draft.principal))

    def first_status(self, draft: Draft) -> TeamStatus:
        return teams.first_status(draft.name, draft.platform)

    def check_deletion(self, obj: Team, platform: Platform) -> None:
        teams.check_deletion(obj, platform)
