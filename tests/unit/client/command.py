"""Run a command of `rayplane` within the test's own process."""

from __future__ import annotations

import sys

import pytest

from rayplane.client.cli import main as cli


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Run a command; return (exit code, standard output, standard error), without earlier output."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rayplane", *argv])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err
