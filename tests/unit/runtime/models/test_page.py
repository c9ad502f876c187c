"""The gate's page is self-contained, shows its plots, and escapes names."""

from __future__ import annotations

import base64
import re

import numpy as np

from rayplane.nouns.model import Gate, Threshold
from rayplane.runtime.models import figures
from rayplane.runtime.models.gate import judge
from rayplane.runtime.models.page import render


def test_the_page_shows_the_verdict_three_plots_and_every_slice_escaped() -> None:
    random = np.random.default_rng(5)
    scores = random.random(300)
    labels = (random.random(300) < scores).astype(float)
    values = ["<b>"] * 100 + ["UA"] * 200
    verdict = judge(
        "run1", {"auc": figures.auc(labels, scores), "ece": None}, Gate(metrics={"auc": Threshold(min=0.99)})
    )
    page = render(
        verdict,
        title="T & D",
        curves={"model": figures.roc(labels, scores)},
        bins=figures.reliability(labels, scores),
        slices=figures.slices(values, labels, scores),
        sliced_by="carrier",
    )
    plots = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(plot)[:4] for plot in plots] == [b"\x89PNG"] * 3
    assert "did not pass" in page
    assert "T &amp; D" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "http" not in page  # the page loads nothing from the network
