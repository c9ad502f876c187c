"""`rayplane job`: submit, follow and stop jobs."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.client.cli.noun import NameArgument, group
from rayplane.client.cli.output import (
    Format,
    Output,
    TeamOption,
    client,
    note,
    pairs,
    print_json,
    print_log,
    print_object,
    say,
    team_of,
)
from rayplane.nouns import JOB

if TYPE_CHECKING:
    from rayplane.client.sdk import Client

app = group(JOB)


# Options after the entrypoint's first word are the entrypoint's own: do not parse them.
@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    entrypoint: Annotated[list[str], typer.Argument(help="The command, after all options.", show_default=False)],
    cluster: Annotated[str | None, typer.Option(help="The cluster to run on.", show_default=False)] = None,
    size: Annotated[str | None, typer.Option(help="Nodes of its own instead: their size.", show_default=False)] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="With --size, the number of worker nodes beside the head: 2, or 0..4 as the work needs.",
            show_default="0",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The job's name; default: one is made.")] = None,
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder of code to upload and run in.", show_default=False)
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the environment; no secrets.")] = None,
    param: Annotated[list[str] | None, typer.Option(help="key=value of the job's parameters.")] = None,
    pip: Annotated[list[str] | None, typer.Option(help="A requirement to install.")] = None,
    cpu: Annotated[float, typer.Option(help="Cores that the entrypoint reserves.")] = 0,
    retries: Annotated[int, typer.Option(min=0, help="Further attempts after a failure.")] = 0,
    timeout: Annotated[str | None, typer.Option(help="The longest that it may take, such as 30m.")] = None,
    experiment: Annotated[str | None, typer.Option(help="MLflow experiment of its run.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow its log and exit as it does.")] = True,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Run an entrypoint on a cluster: rayplane job submit --cluster dev --working-dir . -- python -m jobs.train

    With --size it gets nodes of its own, which are removed when it has ended. Exits with the job's own exit code.
    """
    spec: dict[str, Any] = {
        "entrypoint": shlex.join(entrypoint),
        **_placement(cluster, size, workers),
        "env": pairs(env or [], "--env"),
        "parameters": pairs(param or [], "--param"),
        "pip": pip or [],
        "resources": {"cpu": cpu},
        "retries": retries,
        **({"timeout": timeout} if timeout else {}),
        **({"experiment": experiment} if experiment else {}),
    }
    with client() as api:
        team_name = team_of(api, team)
        if working_dir is not None:
            spec["package"] = api.packages.upload(team_name, working_dir)
            if commit := git_commit(working_dir):
                spec["metadata"] = {"rayplane.git_commit": commit}
        job = api.jobs.submit(team_name, spec, name)
        note(f"job {team_name}/{job.metadata.name} submitted")
        if not wait:
            print_object(job, Format.JSON) if output is Format.JSON else say(job.metadata.name)
            return
        raise typer.Exit(_follow(api, team_name, job.metadata.name, output or Format.TABLE))


@app.command()
def logs(
    name: NameArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="As the job wrote it, with its colours and all else that a terminal obeys."),
    ] = False,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Print a job's log, which is kept after its cluster is gone.

    Without --raw, on a terminal or not, colours are left out, a carriage return begins a new line, and other control
    characters are written out, as \\x1b is: a log can neither move the cursor nor write to the clipboard.
    As JSON it is one object, printed at the end: {"job": NAME, "team": TEAM, "log": TEXT}.
    """
    with client() as api:
        team_name = team_of(api, team)
        texts = api.jobs.logs(team_name, name, follow=follow)
        if output is Format.JSON:
            print_json({"job": name, "team": team_name, "log": "".join(texts)})
            return
        print_log(texts, raw=raw)


@app.command()
def stop(name: NameArgument, team: TeamOption = None, output: Output = None) -> None:
    """Ask a job to stop."""
    with client() as api:
        team_name = team_of(api, team)
        stopped = api.jobs.stop(team_name, name)
        if output is Format.JSON:
            print_object(stopped, Format.JSON)
        else:
            note(f"job {team_name}/{name} is asked to stop")


def git_commit(folder: Path) -> str | None:
    """Git commit of a folder, with ``-dirty`` if the folder has or may have changes; None outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit:
        return None
    return commit if git("status", "--porcelain", "--", ".") == "" else f"{commit}-dirty"


def _placement(cluster: str | None, size: str | None, workers: str | None) -> dict[str, Any]:
    """The spec's fields for where the job runs; raises InvalidInput unless exactly one of cluster and size is given."""
    from rayplane.errors import InvalidInput

    if (cluster is None) == (size is None):
        mistake = "Both --cluster and --size are given" if cluster else "Neither --cluster nor --size is given"
        raise InvalidInput(
            f"{mistake}: a job runs on a cluster, or on nodes of its own.",
            remedy="Say --cluster NAME, or --size SIZE and --workers.",
        )
    if cluster is not None and workers is not None:
        raise InvalidInput(
            "Both --cluster and --workers are given: a cluster has its workers already.",
            remedy="Leave --workers out, or say --size instead of --cluster.",
        )
    if cluster is not None:
        return {"cluster": cluster}
    minimum, _, maximum = ("0" if workers is None else workers).partition("..")
    if not minimum.isdecimal() or not (maximum or minimum).isdecimal():
        raise InvalidInput(f"--workers: '{workers}' is no number.", remedy="Write 2, or 0..4 for as many as needed.")
    return {"nodes": {"size": size, "workers": {"min": int(minimum), "max": int(maximum or minimum)}}}


def _follow(api: Client, team: str, name: str, output: Format) -> int:
    from rayplane.client.sdk import why

    try:
        # With -o json only the object goes to standard output.
        print_log(api.jobs.logs(team, name, follow=True), aside=output is Format.JSON)
        ended = api.jobs.wait(team, name)
    except KeyboardInterrupt:
        note(f"job {team}/{name} goes on. Follow it: rayplane job logs -f {name} --team {team}")
        note(f"Stop it: rayplane job stop {name} --team {team}")
        raise typer.Exit(130) from None
    phase = str(ended.status.get("phase"))
    if output is Format.JSON:
        print_object(ended, Format.JSON)
    note(f"job {team}/{name} {phase.lower()}{': ' + why(ended) if phase != 'Succeeded' and why(ended) else ''}")
    if phase == "Succeeded":
        return 0
    return int(ended.status.get("exit_code") or 1)
