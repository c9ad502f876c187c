"""Claims that an admin makes in a team's namespace: they go with it, and a new team of its name needs one anew."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

from rayplane.errors import NotFound
from rayplane.gateway.backends.base import TeamRef
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.gateway.backends.kubernetes.team_namespaces import TeamNamespaces


def test_a_new_team_of_the_name_needs_a_claim_of_its_own(tmp_path: Path) -> None:
    api, cache, settings = MagicMock(), MagicMock(), KubernetesSettings()
    cache.__getitem__.return_value.get.return_value = None
    places = TeamNamespaces(api, cache, settings, f"file://{tmp_path}", changed=lambda uid: None)
    old, new = TeamRef("growth", "1" * 32), TeamRef("growth", "2" * 32)
    namespace = settings.namespace("growth")
    assert places._storage(old, namespace) == ""
    assert places.delete(old) == ""
    api.get.side_effect = NotFound("There is no such claim.")
    assert "needs a PersistentVolumeClaim" in places._storage(new, namespace)
