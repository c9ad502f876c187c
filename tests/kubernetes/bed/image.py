"""Make the image of Ray's pods without Docker or a registry: Debian's Python, the locked packages, rayplane's wheel.

It is an OCI image of two layers. The base (Debian and the packages, 1.6 GB) is named by the lock and made once, in
minutes; what a change of the code makes anew is the small one on top. Both are kept in the cache.
"""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

REPOSITORY = "rayplane.test/ray"
PAUSE = "rayplane.test/pause:1"

_SOURCE = Path(__file__).parents[3]
_EXTRAS = ("gateway", "kubernetes", "runtime", "flights")
_SUITE, _PYTHON = "bookworm", "3.11"
_PACKAGES = "/usr/local/lib/python3.11/dist-packages"
# wget is what KubeRay's probes of Serve call; libgomp is what XGBoost and scikit-learn are linked with.
_DEBIAN = "python3,wget,ca-certificates,libgomp1"
_UNNEEDED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/lib/apt/lists",
)
_MUST_IMPORT = "dbos, duckdb, feast, lightkube, matplotlib, mlflow, numpy, polars, pyarrow, ray, sklearn, xgboost"
_HOME = Path("/home", "ray")
_KEPT = 3
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Image:
    """An image in the cache."""

    reference: str
    digest: str
    """Of its manifest."""
    id: str
    """Digest of its configuration: a node reports it as the image of a container that was not pulled."""
    blobs: dict[str, Path | bytes]

    def write(self, stream: IO[bytes], *, without: Collection[str] = ()) -> None:
        """Write it as an OCI archive, such as `ctr images import` reads; ``without`` the blobs that the reader has."""
        manifest = self.blobs[self.digest]
        assert isinstance(manifest, bytes)
        annotations = {"io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": self.reference}
        entry = {"mediaType": _MANIFEST, "digest": self.digest, "size": len(manifest), "annotations": annotations}
        files: dict[str, Path | bytes] = {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
            **{
                f"blobs/{digest.replace(':', '/')}": blob
                for digest, blob in self.blobs.items()
                if digest not in without
            },
        }
        with tarfile.open(fileobj=stream, mode="w|") as archive:
            for name, content in files.items():
                _add(archive, name, content)


def ray_image(cache: Path, *, debootstrap: Path, say: Say) -> tuple[Image, Image]:
    """The image of this tree and the one below it, without rayplane, made as far as the cache lacks them.

    Their tags are named by their content.
    """
    base = _base(cache, debootstrap, say)
    config = {
        "User": "1000:1000",
        "WorkingDir": str(_HOME),
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", f"HOME={_HOME}", "LANG=C.UTF-8"],
        "Cmd": ["/bin/bash"],
    }
    return _image(REPOSITORY, [base, _rayplane(cache)], config), _image(f"{REPOSITORY}-base", [base], config)


def pause_image(cache: Path, program: Path) -> Image:
    """The image of the first container of each pod: one static program."""

    def fill(archive: tarfile.TarFile) -> None:
        _add(archive, "pause", program.read_bytes(), mode=0o755)

    key = hashlib.sha256(program.read_bytes()).hexdigest()[:16]
    return _image(PAUSE, [_layer(cache, f"pause-{key}", fill)], {"Entrypoint": ["/pause"], "User": "65535:65535"})


def _base(cache: Path, debootstrap: Path, say: Say) -> Path:
    project = tomllib.loads((_SOURCE / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in _EXTRAS for line in project["optional-dependencies"][extra])]
    pinned = needed((_SOURCE / "requirements.lock").read_text(), asked)
    recipe = json.dumps([_SUITE, _PYTHON, _PACKAGES, _DEBIAN, _UNNEEDED, sys.version_info[:2]])
    key = hashlib.sha256(f"{recipe}\n{pinned}".encode()).hexdigest()[:16]

    def fill(archive: tarfile.TarFile) -> None:
        with tempfile.TemporaryDirectory(dir=cache, prefix=".root-") as made:
            root = Path(made)
            say("image: Debian's Python (about a minute)")
            _run([str(debootstrap), "--variant=minbase", f"--include={_DEBIAN}", _SUITE, str(root)])
            say("image: the locked packages (about a minute)")
            _install(root, pinned)
            _finish(root)
            _try_out(root)
            say("image: its base layer")
            archive.add(root, arcname=".", filter=_owned)

    return _layer(cache, f"base-{key}", fill)


def needed(lock: str, asked: list[str]) -> str:
    """The part of a lock for some requirements: their packages and, by its `via` comments, their dependencies."""
    # A line that begins in the first column begins a package; hashes and comments are indented. A package may be there
    # several times, for several Pythons.
    blocks = [(_name(block), block) for block in re.split(r"\n(?=\S)", lock.strip())]
    parents = [set(re.findall(r"^ +#(?: via)? +(\S+)", block, re.MULTILINE)) for _, block in blocks]
    names = {_name(requirement) for requirement in asked}
    while more := {name for (name, _), of in zip(blocks, parents, strict=True) if of & names} - names:
        names |= more
    return "\n".join(block for name, block in blocks if name in names) + "\n"


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")


def _install(root: Path, pinned: str) -> None:
    """The pinned requirements with their hashes, for the image's Python."""
    target = root / _PACKAGES.lstrip("/")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(pinned)
        requirements.flush()
        # Pods can't write there: without bytecode every process would compile again.
        bytecode = ["--compile-bytecode"] if sys.version_info[:2] == (3, 11) else []
        checked = ["--quiet", "--no-deps", "--require-hashes", f"--requirements={requirements.name}"]
        uv = [sys.executable, "-m", "uv", "pip", "install", f"--python-version={_PYTHON}", f"--target={target}"]
        _run([*uv, *checked, *bytecode])
    for script in (target / "bin").iterdir():
        if script.is_dir():  # bytecode of scripts
            continue
        content = script.read_bytes()
        if content.startswith(b"#!") and b"python" in content.partition(b"\n")[0]:
            script.write_bytes(b"#!/usr/bin/python3\n" + content.partition(b"\n")[2])
        shutil.move(script, root / "usr/local/bin" / script.name)


def _finish(root: Path) -> None:
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    with (root / "etc/passwd").open("a") as users:
        users.write(f"ray:x:1000:1000::{_HOME}:/bin/bash\n")
    with (root / "etc/group").open("a") as groups:
        groups.write("ray:x:1000:\n")
    (root / _HOME.relative_to("/")).mkdir()
    for name in _UNNEEDED:
        shutil.rmtree(root / name, ignore_errors=True)


def _try_out(root: Path) -> None:
    """Import what jobs import, so that a package that is missing fails here and not in a pod."""
    script = 'mount -t proc proc "$1/proc" && exec chroot "$1" env HOME=/tmp/tried python -c "$2"'
    _run(["unshare", "--mount", "sh", "-c", script, "sh", str(root), f"import {_MUST_IMPORT}"])
    for left in (root / "tmp").iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _rayplane(cache: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder])
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            files = {name: packed.read(name) for name in sorted(packed.namelist()) if not name.endswith("/")}
    key = hashlib.sha256(
        b"with its commands" + b"".join(name.encode() + b"\0" + hashlib.sha256(files[name]).digest() for name in files)
    )

    def fill(archive: tarfile.TarFile) -> None:
        for name, content in files.items():
            _add(archive, f"{_PACKAGES.lstrip('/')}/{name}", content)
        for script, text in _scripts(files):
            _add(archive, f"usr/local/bin/{script}", text.encode(), mode=0o755)

    return _layer(cache, f"rayplane-{key.hexdigest()[:16]}", fill)


def _scripts(wheel: dict[str, bytes]) -> Iterator[tuple[str, str]]:
    """The commands that a wheel's installation would make."""
    [described] = [content for name, content in wheel.items() if name.endswith(".dist-info/entry_points.txt")]
    listed = configparser.ConfigParser()
    listed.read_string(described.decode())
    for script, target in listed["console_scripts"].items():
        module, _, function = target.partition(":")
        yield script, f"#!/usr/bin/python3\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"


def _layer(cache: Path, name: str, fill: Callable[[tarfile.TarFile], None]) -> Path:
    """The tar of a layer, made if it is missing and renamed once complete. Concurrent callers make it once."""
    path = cache / f"{name}.tar"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for left in (*cache.glob(".partial-*"), *cache.glob(".root-*")):  # left by a killed process
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            partial = cache / f".partial-{name}"
            with tarfile.open(partial, mode="w") as archive:
                fill(archive)
            path.with_suffix(".sha256").write_text(_digest(partial))
            os.replace(partial, path)
        path.touch()
        _forget_old(cache, name.partition("-")[0])
    return path


def _forget_old(cache: Path, kind: str) -> None:
    """Keep the layers of a kind that were used last: a base is large, and clones with another lock may take turns."""
    for old in sorted(cache.glob(f"{kind}-*.tar"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        old.unlink()
        old.with_suffix(".sha256").unlink(missing_ok=True)


def _image(repository: str, layers: list[Path], config: dict[str, Any]) -> Image:
    digests = [(layer.with_suffix(".sha256")).read_text() for layer in layers]
    described = json.dumps(
        {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": digests},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", described),
            "layers": [
                {"mediaType": _LAYER, "digest": digest, "size": layer.stat().st_size}
                for layer, digest in zip(layers, digests, strict=True)
            ],
        }
    ).encode()
    digest = _digest(manifest)
    blobs: dict[str, Path | bytes] = {digest: manifest, _digest(described): described}
    blobs |= dict(zip(digests, layers, strict=True))
    tagged = repository if ":" in repository else f"{repository}:{digest.removeprefix('sha256:')[:12]}"
    return Image(tagged, digest, _digest(described), blobs)


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _digest(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return f"sha256:{hashlib.sha256(content).hexdigest()}"
    with content.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _add(archive: tarfile.TarFile, name: str, content: Path | bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    if isinstance(content, bytes):
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    else:
        entry.size = content.stat().st_size
        with content.open("rb") as file:
            archive.addfile(entry, file)


def _owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    if entry.name == f".{_HOME}":
        entry.uid = entry.gid = 1000
        entry.uname = entry.gname = ""
    return entry


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, cwd=_SOURCE, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv[:6])} failed: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
