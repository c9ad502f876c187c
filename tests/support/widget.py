"""A ninth noun for ``tests.support.new_noun``: its spec and status, as ``nouns/widget.py`` would have them."""

from __future__ import annotations

from rayplane.nouns.base import Spec, Status


class WidgetSpec(Spec):
    """A widget, of some colour."""

    colour: str = "red"


class WidgetStatus(Status):
    """The state of a widget."""
