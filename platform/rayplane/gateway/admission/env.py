"""Reject specs with reserved or unreadable names, or with values that look like secrets. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rayplane.errors import InvalidSpec
from rayplane.gateway.admission.policy import AdmissionRequest
from rayplane.nouns.job import RESERVED
from rayplane.text import check_plain

_SECRET_WORDS = frozenset(
    {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS", "APIKEY"}
)
_SECRET_ENDS = ("API_KEY", "ACCESS_KEY", "PRIVATE_KEY", "SECRET_KEY", "AUTH_KEY")
# A variable whose name ends so holds the location or a property of a secret, not the secret.
_HARMLESS_ENDS = ("PATH", "FILE", "DIR", "NAME", "URL", "URI", "TTL", "LIMIT", "LENGTH", "COUNT")
_SECRET_VALUES = tuple(
    re.compile(pattern)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",  # AWS
        r"\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bgithub_pat_[A-Za-z0-9_]{30,}",
        r"\bglpat-[A-Za-z0-9_\-]{20,}",
        r"\bhf_[A-Za-z0-9]{30,}\b",
        r"\bxox[abeoprs]-[A-Za-z0-9\-]{10,}",  # Slack
        r"\bsk-[A-Za-z0-9_\-]{20,}",
        r"\bAIza[0-9A-Za-z_\-]{35}\b",  # Google
        r"\beyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}",  # a JSON web token
        r"://[^/\s:@]+:[^/\s:@]+@",  # a URL with a password
    )
)
_REMEDY = "Put it into a file that only the job's cluster can read (0600), and give the file's path in its place."


class EnvPolicy:
    """Admission policy: a job sets only variables that a job may have."""

    kinds = ("Job",)

    def check(self, request: AdmissionRequest) -> None:
        """Raise InvalidSpec for the first other variable."""
        check_env(request.spec.env, "job.env")


def check_env(env: Mapping[str, str], where: str) -> None:
    """Raise InvalidSpec for the first variable that is reserved, has no valid name, or looks like a secret."""
    for key, value in env.items():
        if key.startswith(RESERVED):
            raise InvalidSpec(
                f"{where}.{key}: names that start with {' or '.join(RESERVED)} are set by the platform.",
                remedy="Leave it out, or set it in the job's own code.",
            )
        if not key or "=" in key or "\0" in key + value:
            raise InvalidSpec(f"{where}: '{key}' can't be an environment variable.", remedy="Write it as NAME: value.")
        if names_a_secret(key) and value.strip() and not _is_a_path(value):
            raise InvalidSpec(
                f"{where}.{key}: by its name this is a secret, and a spec is no place for it.", remedy=_REMEDY
            )
    check_values(env, where)


def check_values(values: Mapping[str, str], where: str) -> None:
    """Raise InvalidSpec for the first value that looks like a secret; the error does not repeat the value."""
    for key, value in values.items():
        if looks_secret(value):
            raise InvalidSpec(
                f"{where}.{key}: its value looks like a secret, and a spec is no place for it.", remedy=_REMEDY
            )


def check_names(names: Mapping[str, str | None], where: str) -> None:
    """Raise InvalidSpec for the first field of a spec whose name has control or bidirectional characters."""
    for field, name in names.items():
        try:
            check_plain(name or "")
        except ValueError as exc:
            raise InvalidSpec(f"{where}.{field}: {exc}.", remedy="Write it in letters, digits and signs.") from exc


def looks_secret(value: str) -> bool:
    """True if a value has the form of a well-known kind of key, token, or URL with a password."""
    return any(pattern.search(value) for pattern in _SECRET_VALUES)


def names_a_secret(key: str) -> bool:
    """True if a variable of this name holds a secret: ``DB_PASSWORD`` does; ``TOKEN_PATH`` and ``TOKENIZERS`` don't."""
    upper = key.upper()
    if upper.split("_")[-1] in _HARMLESS_ENDS:
        return False
    return upper.endswith(_SECRET_ENDS) or bool(_SECRET_WORDS & set(upper.split("_")))


def _is_a_path(value: str) -> bool:
    return value.startswith(("/", "file://", "~/"))
