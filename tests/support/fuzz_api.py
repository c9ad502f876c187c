"""Fuzz the gateway by its own OpenAPI document, with schemathesis: `python -m tests.support.fuzz_api --examples 100`.

The app is the real one, on a real store and storage with objects of every kind, but without compute.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import schemathesis
from fastapi.testclient import TestClient
from hypothesis import strategies as st
from schemathesis.config._checks import POSITIVE_DATA_ACCEPTANCE_EXPECTED_STATUSES
from schemathesis.engine import Status, events, from_schema
from schemathesis.openapi.checks import RejectedPositiveData

from rayplane.errors import Unauthenticated
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.admission.tokens import TokenSigner
from rayplane.gateway.api.app import create_app
from rayplane.gateway.usecases.platform import Platform
from tests.unit.gateway.api.served import platform_without_compute

ROOT = Path(__file__).parents[2]
PHASES = ("examples", "coverage", "fuzzing", "stateful")
PRINCIPALS = ("admin", "team-admin", "member", "viewer", "cluster", "metrics", "none")
AT = "2026-01-01T00:00:00Z"
TEAM, CLUSTER = "growth", "dev"

RULES = re.compile(
    "|".join(
        (
            # on two parts of a request together
            r"metadata\.(name|team) is '.*', but the URL says",
            r"min \(\d+\) is above max \(\d+\)",
            r"'since' comes after 'until'",
            # on durations written as text
            r"is longer than 36500 days",
            r"0s would end it at once|Input should be greater than 0|extended by a time above zero",
            # on opaque texts, which only an earlier answer can give
            r"is not a cursor of this list",
            # on references and requirements of a spec
            r"' names no team|parameter '.*' is unknown|' has no package ",
            r"is an output of both|which is not a step|which no step makes|need each other in a circle",
            r"cluster\.address: |: the backend '",
            r"part of MLflow's own addresses|the folder of all teams' artifacts",
            # on values that no spec may have
            r"looks like a secret|by its name this is a secret",
            r"is in no year of UTC",
            # on the principal
            r"Only a cluster has a context of its own|These events are of no team",
            # on an event's data, which depends on its type
            r"\d+ of \d+ events can't be taken",
            # on the bytes of a package
            r"The package's SHA-256 is|not a zip that can be read",
            r"which the platform does not fetch|was not uploaded here",
        )
    ),
    re.DOTALL,
)
"""Messages of rules that a schema can't express: the gateway may refuse a request that fits the schema by these.

The document's description mentions them.
"""


@dataclass(frozen=True)
class Finding:
    """A failed check of an answer."""

    operation: str
    phase: str
    title: str
    message: str

    def __str__(self) -> str:
        return f"{self.operation} [{self.phase}] {self.title}\n{self.message}\n"


def package() -> tuple[str, bytes]:
    """A constant code package: its SHA-256 and its bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("train.py"), "print('hello')\n")
    return hashlib.sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()


schemathesis.openapi.media_type("application/zip", st.sampled_from([package()[1], b"", b"no zip", package()[1][:-9]]))


@schemathesis.serializer("application/zip")
def as_it_is(_: Any, value: Any) -> Any:
    """Serialize a package: send its bytes unchanged."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook("before_call")
def impatient(_: Any, case: Any, __: Any) -> None:
    """Shorten the wait of requests for logs, which the gateway may hold for 20 s."""
    with suppress(TypeError, ValueError, KeyError):
        if 0.01 < float(case.query["wait"]) <= 20:
            case.query["wait"] = 0.01


class Signer(TokenSigner):
    """The platform's signer, which also accepts tokens of team members; a local platform issues none."""

    def __init__(self, real: TokenSigner) -> None:
        self._real = real

    def verify(self, token: str) -> Principal | None:
        """The principal of a token."""
        roles = {"team-admin": "admin", "member": "member", "viewer": "viewer"}
        if token in roles:
            return Principal(name=token, role=roles[token], team=TEAM)  # type: ignore[arg-type]
        return self._real.verify(token)

    def refusal(self, token: str) -> Unauthenticated:
        """As the real one."""
        return self._real.refusal(token)

    def cluster_token(self, team: str, cluster_uid: str) -> str:
        """Sign as the real signer does."""
        return self._real.cluster_token(team, cluster_uid)


@contextmanager
def seeded(folder: Path) -> Iterator[Platform]:
    """A platform with an object of each kind. Deleted objects vanish at once, as if a reconciler had removed them."""
    with platform_without_compute(folder) as bare:

        def wake() -> None:
            for kind in ("Team", "Cluster", "Job", "Service", "PipelineRun"):
                for obj in [o for o in bare.store.each(kind) if o.metadata.deleted_at is not None]:
                    bare.store.remove(obj.metadata.uid)

        platform = replace(bare, wake=wake, signer=Signer(bare.signer))
        seed(platform)
        yield platform


def token_of(platform: Platform, principal: str) -> str | None:
    """The token of one of ``PRINCIPALS``; None for ``none``."""
    home = platform.settings.home_paths
    if principal == "admin":
        return home.token.read_text().strip()
    if principal == "metrics":
        return (home.secrets / "metrics.token").read_text().strip()
    if principal == "cluster":
        uid = platform.store.get("Cluster", TEAM, CLUSTER).metadata.uid
        return platform.signer.cluster_token(TEAM, uid)
    return None if principal == "none" else principal


def seed(platform: Platform) -> None:
    """Create team ``growth`` with a cluster, job, pipeline run, dataset version, model, feature set and service."""
    api = TestClient(create_app(platform), headers={"Authorization": f"Bearer {token_of(platform, 'admin')}"})
    base = f"/v1/teams/{TEAM}"
    sha256, data = package()

    def ask(method: str, path: str, **kwargs: Any) -> Any:
        answer = api.request(method, path, **kwargs)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    ask("PUT", base, json={"spec": {"members": {"ada": "viewer"}}})
    ask("PUT", f"{base}/clusters/{CLUSTER}", json={"spec": {}})
    ask("PUT", f"{base}/packages/{sha256}", content=data)
    metadata = {"name": "train", "labels": {"stage": "first"}}
    job = ask("POST", f"{base}/jobs", json={"metadata": metadata, "spec": {"entrypoint": "true", "cluster": CLUSTER}})
    platform.storage.write(f"{TEAM}/jobs/{job['metadata']['uid']}/driver.log", b"one\ntwo\n")
    steps = {"one": {"entrypoint": "true"}}
    ask("PUT", f"{base}/pipelines/nightly", json={"spec": {"cluster": CLUSTER, "steps": steps}})
    ask("POST", f"{base}/pipelines/nightly/runs", json={})
    ask("PUT", f"{base}/features/features", json={"spec": {}})
    ask("PUT", f"{base}/models/delays", json={"spec": {}})
    ask("PUT", f"{base}/services/delays", json={"spec": {"model": "models:/delays@champion", "cluster": CLUSTER}})
    version = "1" * 16
    published = {
        "team": TEAM, "name": "flights", "version": version, "content_hash": "1" * 64, "rows": 1, "bytes": 1,
        "uri": platform.storage.uri(f"{TEAM}/datasets/flights/{version}"), "columns": [{"name": "a", "type": "int64"}],
        "created_at": AT,
    }  # fmt: skip
    event = {"id": "1", "type": "dataset.published", "time": AT, "submission_id": f"{job['metadata']['uid']}-1"}
    worker = {"Authorization": f"Bearer {token_of(platform, 'cluster')}"}
    ask("POST", "/v1/events", json={"events": [{**event, "data": published}]}, headers=worker)


def config(token: str | None, *, seed: int, examples: int, phases: tuple[str, ...]) -> schemathesis.Config:
    """Configuration of schemathesis, with all of its checks on."""
    # Generation takes no values from earlier answers, which have random ids, and does not depend on hash order.
    alike = {"extra-data-sources": {"responses": False}}
    drawn = {"max-examples": examples, "database": "none", "no-shrink": True, "unique-inputs": True}
    return schemathesis.Config.from_dict(
        {
            "seed": seed,
            "headers": {} if token is None else {"Authorization": f"Bearer {token}"},
            "continue-on-failure": True,
            "request-timeout": 60,
            "cache": {"enabled": False},
            "analysis": {"constants": {"enabled": False}},
            "generation": drawn,
            "phases": {name: {"enabled": name in phases, **({} if name == "stateful" else alike)} for name in PHASES},
            # 412, like 409: a generated If-Match does not match the object's version.
            "checks": {
                "positive_data_acceptance": {
                    "expected-statuses": [*POSITIVE_DATA_ACCEPTANCE_EXPECTED_STATUSES, "412"],
                }
            },
            # Most requests should address existing objects.
            "dictionaries": {
                "teams": {"values": [TEAM]},
                "names": {"values": [CLUSTER, "train", "nightly", "features", "delays", "flights"]},
                "runs": {"values": ["nightly-1"]},
                "versions": {"values": ["1" * 16, "latest"]},
                "clusters": {"values": [CLUSTER]},
                "jobs": {"values": ["train"]},
                "packages": {"values": [package()[0]]},
            },
            "parameters": {
                "path.team": {"dictionary": "teams", "probability": 0.8},
                "path.name": {"dictionary": "names", "probability": 0.7},
                "path.run": {"dictionary": "runs", "probability": 0.7},
                "path.version": {"dictionary": "versions", "probability": 0.7},
                "path.cluster": {"dictionary": "clusters", "probability": 0.8},
                "path.job_or_submission_id": {"dictionary": "jobs", "probability": 0.7},
                "path.sha256": {"dictionary": "packages", "probability": 0.5},
            },
        }
    )


def run(
    platform: Platform, principal: str, *, seed: int, examples: int, phases: tuple[str, ...] = PHASES
) -> tuple[list[Finding], Counter[str]]:
    """Fuzz as one principal; return findings, the number of requests by phase, and that of ``routes`` with a 2xx."""
    app = create_app(platform)
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json",
        app,
        config=config(token_of(platform, principal), seed=seed, examples=examples, phases=phases),
        headers={"Authorization": f"Bearer {token_of(platform, 'admin')}"},
    )

    @schema.hook("filter_failure")
    def by_no_rule(_: Any, failure: Any, __: Any, answer: Any) -> bool:
        """True if the failure counts; the refusal of a valid request by one of RULES does not."""
        return not (
            isinstance(failure, RejectedPositiveData)
            and answer.status_code in (400, 422)
            and RULES.search(answer.content.decode())
        )

    findings: list[Finding] = []
    asked: Counter[str] = Counter()
    succeeded: set[str] = set()
    for event in from_schema(schema).execute():
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.NonFatalError):
            findings.append(Finding(event.label, str(event.phase), "error", repr(event.value)))
        if isinstance(event, events.ScenarioFinished):
            asked[event.phase.value] += len(event.recorder.interactions)
            findings += _findings(event)
            succeeded |= set(_succeeded(event))
    asked["routes"] = len(succeeded)
    return findings, asked


def run_alone(
    principal: str, *, seed: int, examples: int, phases: tuple[str, ...] = PHASES
) -> tuple[list[Finding], Counter[str]]:
    """``run`` on a fresh platform in a process of its own: what it sends depends on the seed alone.

    Hypothesis also draws constants that it reads in the modules which the process has imported: among other tests,
    each order of tests would send other requests.
    """
    numbers = ("--seed", str(seed), "--examples", str(examples))
    command = (sys.executable, "-m", "tests.support.fuzz_api", *numbers, "--principals", principal, "--phases", *phases)
    done = subprocess.run((*command, "--json"), capture_output=True, text=True, timeout=1200, cwd=ROOT)
    if not done.stdout:
        raise RuntimeError(f"fuzzing as {principal} ended with {done.returncode}: {done.stderr[-4000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return [Finding(**finding) for finding in result["findings"]], Counter(result["asked"])


def _succeeded(event: events.ScenarioFinished) -> Iterator[str]:
    """The routes that answered a request with a 2xx."""
    for case_id, interaction in event.recorder.interactions.items():
        if interaction.response is not None and interaction.response.status_code // 100 == 2:
            yield event.recorder.cases[case_id].value.operation.label


def _findings(event: events.ScenarioFinished) -> Iterator[Finding]:
    for case_id, checks in event.recorder.checks.items():
        for check in checks:
            if check.status is not Status.FAILURE or check.failure_info is None:
                continue
            failure, answer = check.failure_info.failure, event.recorder.interactions[case_id].response
            answered = "no answer" if answer is None else f"{answer.status_code} {answer.content[:600]!r}"
            message = f"{failure.message}\n{check.failure_info.code_sample}\n-> {answered}"
            label = event.recorder.cases[case_id].value.operation.label
            yield Finding(label, event.phase.value, f"{check.name}: {failure.title}", message)


def main() -> int:
    """Print the findings; return the exit code, 1 if there are any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=20, help="for each route, in each phase")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES)
    parser.add_argument("--principals", nargs="+", choices=PRINCIPALS, default=PRINCIPALS)
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each principal")
    options = parser.parse_args()
    wrong: Counter[tuple[str, str]] = Counter()
    for principal in options.principals:
        with tempfile.TemporaryDirectory() as folder, seeded(Path(folder)) as platform:
            findings, asked = run(
                platform, principal, seed=options.seed, examples=options.examples, phases=tuple(options.phases)
            )
        for finding in findings:
            wrong[finding.operation, finding.title] += 1
        if options.json:
            print(json.dumps({"findings": [asdict(finding) for finding in findings], "asked": asked}), flush=True)
            continue
        for finding in findings:
            print(finding)
        print(f"{principal}, seed {options.seed}: {len(findings)} findings in {dict(asked)}", flush=True)
    if not options.json:
        print(f"all findings: {dict(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
