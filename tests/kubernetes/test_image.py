"""The image without a node: its packages, and a complete archive. Tests on the node check the rest."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from tests.kubernetes.bed import image

LOCK = """\
alpha==1 \\
    --hash=sha256:aa
    # via rayplane (pyproject.toml)
beta[extra]==2 ; sys_platform == 'linux' \\
    --hash=sha256:bb
    # via
    #   alpha
    #   other
gamma-ray==3 \\
    --hash=sha256:cc
    # via beta
alpha==0 ; python_full_version < '3.12' \\
    --hash=sha256:ee
    # via
    #   rayplane (pyproject.toml)
other==4 \\
    --hash=sha256:dd
    # via rayplane (pyproject.toml)
"""


def test_the_image_has_the_requested_packages_and_their_dependencies_and_no_more() -> None:
    needed = image.needed(LOCK, ["alpha[data]>=1"])
    assert [line for line in needed.splitlines() if not line.startswith(" ")] == [
        "alpha==1 \\",
        "beta[extra]==2 ; sys_platform == 'linux' \\",
        "gamma-ray==3 \\",
        "alpha==0 ; python_full_version < '3.12' \\",
    ]
    assert "sha256:cc" in needed
    assert image.needed(LOCK, ["Gamma_Ray"]).startswith("gamma-ray==3")


def test_every_blob_of_an_archive_has_the_digest_that_names_it(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"a program")
    made = image.pause_image(tmp_path / "cache", program)
    stream = io.BytesIO()
    made.write(stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    blobs = {name: content for name, content in files.items() if name.startswith("blobs/sha256/")}
    assert len(blobs) == 3
    assert all(hashlib.sha256(content).hexdigest() == name.rpartition("/")[2] for name, content in blobs.items())
    [entry] = json.loads(files["index.json"])["manifests"]
    assert entry["digest"] == made.digest
    assert entry["annotations"]["io.containerd.image.name"] == image.PAUSE
    manifest = json.loads(blobs[f"blobs/{made.digest.replace(':', '/')}"])
    assert {layer["digest"] for layer in manifest["layers"]} <= made.blobs.keys()


def test_an_image_is_made_once_and_again_when_its_content_changes(tmp_path: Path) -> None:
    program, cache = tmp_path / "program", tmp_path / "cache"
    program.write_bytes(b"a program")
    first = image.pause_image(cache, program)
    assert image.pause_image(cache, program).digest == first.digest
    program.write_bytes(b"another")
    assert image.pause_image(cache, program).digest != first.digest
