"""Find the gateway and the token: as given, else by the environment, else in the home that `rayplane up` writes."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from rayplane import errors
from rayplane.processes import read_json
from rayplane.settings import Home, find_home, read_secret


def gateway_url(given: str | None) -> str:
    """The gateway's URL; raises Unavailable if none is known, InvalidInput if it is no URL."""
    return _checked(given or os.environ.get("RAYPLANE_URL") or _url_of_home(Home(find_home())))


def token_path(given: str | Path | None) -> Path:
    """Path of the token's file."""
    return Path(given or os.environ.get("RAYPLANE_TOKEN_PATH") or Home(find_home()).token)


def read_token(path: Path) -> str:
    """Read the token; raises InvalidInput if its file is missing, others may read it, or it holds no token."""
    text = read_secret(path)
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        # The message leaves out the file's content, which may still be a secret.
        raise errors.InvalidInput(
            f"Secret file '{path}' holds no token: a token is one line of letters, digits and signs.",
            remedy="Write the token alone into it, or name another file by RAYPLANE_TOKEN_PATH.",
        )
    return text


def _url_of_home(home: Home) -> str:
    """The gateway's URL that `rayplane up` wrote into the home."""
    try:
        url = read_json(home.state).get("gateway_url")
    except (OSError, ValueError, AttributeError) as exc:
        raise errors.Unavailable(
            f"'{home.state}' is damaged: no gateway's URL can be read from it.", remedy="Run 'rayplane up'."
        ) from exc
    if not url:
        raise errors.Unavailable(f"No platform was started in '{home.path}'.", remedy="Run 'rayplane up'.")
    return str(url)


def _checked(text: str) -> str:
    try:
        url = httpx.URL(text)
        right = url.scheme in ("http", "https") and url.host and (url.port or 0) < 65536
        right = right and not url.query and not url.fragment
    except (httpx.InvalidURL, ValueError):
        right = False
    if not right:
        raise errors.InvalidInput(
            f"'{text}' is no gateway's URL.", remedy="Write RAYPLANE_URL as http://host:port, or leave it out."
        )
    return text.rstrip("/")
