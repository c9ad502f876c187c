"""Values and composition of the port to backends."""

from __future__ import annotations

from rayplane.gateway.backends.base import Capability, ClusterRef, JobRef, ObjectRef, ServiceRef, capabilities_of

UID = "0123456789abcdef0123456789abcdef"


def test_ports_decide_whether_jobs_services_and_teams_are_declared() -> None:
    able = frozenset({Capability.CREATE, Capability.JOB})
    assert capabilities_of(able, jobs=None, services=None, teams=None) == {Capability.CREATE}
    assert capabilities_of(able, jobs=None, services=object(), teams=object()) == {
        Capability.CREATE,
        Capability.SERVICE,
        Capability.TEAM,
    }


def test_references_to_different_nouns_of_one_name_and_uid_differ() -> None:
    refs = [
        ObjectRef("alpha", "dev", UID),
        ClusterRef("alpha", "dev", UID),
        ServiceRef("alpha", "dev", UID),
        JobRef("alpha", "dev", UID, attempt=1),
        JobRef("alpha", "dev", UID, attempt=2),
    ]
    assert len(set(refs)) == len(refs)
    assert {str(ref) for ref in refs} == {"alpha/dev"}
    assert ClusterRef("alpha", "dev", UID) == ClusterRef("alpha", "dev", UID, placed=True)
