"""Environment: the interpreter and libraries that code runs in, recorded on every job, run, model and service."""

from __future__ import annotations

import hashlib

from rayplane.nouns.base import Record


class Environment(Record):
    """Image digest (or local interpreter) + Ray + Python minor + lock hash + rayplane."""

    interpreter: str
    """``image@sha256:...`` or ``local`` for the interpreter of the host."""
    ray: str
    """Ray's version."""
    python: str
    """Minor version, such as ``3.11``."""
    lock_hash: str
    """SHA-256 (hex) of the lock, or of the sorted installed distributions where no lock is known."""
    rayplane: str
    """Version of rayplane."""

    @property
    def key(self) -> str:
        """Short hash of all fields; part of the key by which a pipeline caches a step."""
        text = "\n".join((self.interpreter, self.ray, self.python, self.lock_hash, self.rayplane))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
