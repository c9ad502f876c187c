"""`rayplane why`: why a cluster, a job, a service is not as wanted, and what to do about it."""

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

    The first line is the answer. Something that is as wanted has no cause. Exits 0 whenever there is an answer.
    """
    from rayplane.nouns import NOUNS

    of, singular, name = parts(target)
    with client() as api:
        noun = api.noun(next(n for n in NOUNS if n.singular == singular))
        named = (of or team_of(api, team)) if noun.type.team_scoped else ""
        print_explanation(noun.why(named, name), output or Format.TABLE)


def parts(target: str) -> tuple[str | None, str, str]:
    """(team, noun, name) of what is asked about; a noun's word goes before a team's name. Raises InvalidInput."""
    from rayplane.errors import InvalidInput
    from rayplane.nouns import NOUNS

    words = {word: noun.singular for noun in NOUNS for word in (noun.singular, noun.plural)}
    given = target.split("/")
    if all(given) and len(given) <= 3:
        if len(given) == 1:
            return None, "cluster", given[0]
        if len(given) == 2:
            noun = words.get(given[0])
            return (None, noun, given[1]) if noun else (given[0], "cluster", given[1])
        if given[1] in words:
            return given[0], words[given[1]], given[2]
    raise InvalidInput(
        f"'{target}' names nothing.",
        remedy="Write growth/dev for a cluster, job/train or growth/job/train for anything else; nouns are: "
        + ", ".join(noun.singular for noun in NOUNS)
        + ".",
    )
