"""`rayplane why`: explain why a cluster, a job or a service is not as wanted, and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from rayplane.client.cli.output import Format, Output, TeamOption, client, print_explanation, team_of


def why(
    target: Annotated[
        str, typer.Argument(help="TEAM/CLUSTER, NOUN/NAME, TEAM/NOUN/NAME, or a cluster's NAME.", show_default=False)
    ],
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Say why something is not as wanted, and what to do: rayplane why growth/dev, rayplane why job/train

    The first line is the answer. An object that is as wanted has no cause. Exits with 0 whenever there is an answer.
    """
    from rayplane.nouns import NOUNS

    explicit_team, singular, name = parts(target)
    with client() as api:
        noun = api.noun(next(n for n in NOUNS if n.singular == singular))
        team_name = (explicit_team or team_of(api, team)) if noun.type.team_scoped else ""
        print_explanation(noun.why(team_name, name), output or Format.TABLE)


def parts(target: str) -> tuple[str | None, str, str]:
    """Parse a target as (team, noun, name); a first part that is a noun does not name a team. Raises InvalidInput."""
    from rayplane.errors import InvalidInput
    from rayplane.nouns import NOUNS

    words = {word: noun.singular for noun in NOUNS for word in (noun.singular, noun.plural)}
    split = target.split("/")
    if all(split) and len(split) <= 3:
        if len(split) == 1:
            return None, "cluster", split[0]
        if len(split) == 2:
            noun = words.get(split[0])
            return (None, noun, split[1]) if noun else (split[0], "cluster", split[1])
        if split[1] in words:
            return split[0], words[split[1]], split[2]
    raise InvalidInput(
        f"'{target}' names nothing.",
        remedy="Write growth/dev for a cluster, job/train or growth/job/train for anything else; nouns are: "
        + ", ".join(noun.singular for noun in NOUNS)
        + ".",
    )
