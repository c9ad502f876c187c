"""Render a gate's evidence as one self-contained HTML page: verdict, ROC, calibration, slices."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from rayplane.nouns.model import GateReport
from rayplane.runtime.models.figures import Bin, Floats, Slice
from rayplane.runtime.models.gate import explain

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
.passed { color: #17703a; } .failed { color: #a61b1b; } img { max-width: 100%; }
"""


def render(
    report: GateReport,
    *,
    title: str,
    curves: Mapping[str, tuple[Floats, Floats]],
    bins: Sequence[Bin],
    slices: Sequence[Slice],
    sliced_by: str,
) -> str:
    """Return the HTML. ``curves``: name -> ROC curve as (false positive rate, true positive rate)."""
    plots = {
        "Ranking (ROC)": _png(lambda axes: _draw_roc(axes, curves)),
        "Calibration": _png(lambda axes: _draw_reliability(axes, bins)),
        f"AUC by {sliced_by}": _png(lambda axes: _draw_slices(axes, slices)),
    }
    images = "".join(
        f'<h2>{escape(name)}</h2><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
        for name, data in plots.items()
    )
    verdict = "passed" if report.passed else "failed"
    checks = _table(
        ("check", "value", "bound", "verdict"),
        [
            (
                c.metric,
                "not measured" if c.value is None else f"{c.value:.4f}",
                c.bound,
                "passed" if c.passed else "failed",
            )
            for c in report.checks
        ],
    )
    figures = _table(
        ("figure", "value"),
        [
            (k, f"{v:.4f}" if isinstance(v, float) else v)
            for k, v in report.figures.items()
            if isinstance(v, int | float | str)
        ],
    )
    parts = _table(
        (sliced_by, "rows", "rate", "auc"),
        [(s.value, s.rows, f"{s.rate:.4f}", "one outcome" if s.auc is None else f"{s.auc:.4f}") for s in slices],
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="{verdict}"><strong>{escape(explain(report))}</strong></p>'
        f"{checks}<h2>Figures</h2>{figures}{images}{parts}</body></html>"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _png(draw: Callable[[Any], None]) -> str:
    # The object interface, not pyplot: no global state and no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _draw_roc(axes: Any, curves: Mapping[str, tuple[Floats, Floats]]) -> None:
    for name, (false, true) in curves.items():
        axes.plot(false, true, label=name)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower right")


def _draw_reliability(axes: Any, bins: Sequence[Bin]) -> None:
    top = max([0.01, *(max(b.predicted, b.observed) for b in bins)]) * 1.05
    axes.plot([b.predicted for b in bins], [b.observed for b in bins], marker="o", label="model")
    axes.plot([0, top], [0, top], color="grey", linestyle=":", label="perfect")
    axes.set(xlabel="mean prediction", ylabel="observed rate", xlim=(0, top), ylim=(0, top))
    axes.legend(loc="upper left")


def _draw_slices(axes: Any, slices: Sequence[Slice]) -> None:
    shown = [(s.value, s.rows, s.auc) for s in slices if s.auc is not None]
    axes.barh([f"{value} ({rows})" for value, rows, _ in shown], [value for _, _, value in shown])
    axes.invert_yaxis()
    axes.axvline(0.5, color="grey", linestyle=":")
    axes.set(xlabel="AUC", xlim=(0.4, 1.0))
