"""Check a cron schedule of five fields, as KubeRay's operator parses it (robfig/cron's standard format). Pure."""

from __future__ import annotations

import re

_MONTHS = {
    "jan": 1,
    "feb": 2,
    "mar": 3,
    "apr": 4,
    "may": 5,
    "jun": 6,
    "jul": 7,
    "aug": 8,
    "sep": 9,
    "oct": 10,
    "nov": 11,
    "dec": 12,
}
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)
_NAMED = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_EVERY = re.compile(r"@every [+-]?(0|((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+)")


def wrong(schedule: str) -> str:
    """The problem of a schedule, as the end of a sentence about it; empty if it is valid."""
    if not schedule:
        return "is empty"
    schedule = re.sub(r"^(TZ|CRON_TZ)=\S+ ", "", schedule).strip()
    if schedule.startswith("@"):
        known = schedule in _NAMED or _EVERY.fullmatch(schedule)
        return "" if known else f"names no schedule: there are {', '.join(_NAMED)} and '@every 1h30m'"
    fields = schedule.split()
    if len(fields) != len(_FIELDS):
        return f"has {len(fields)} fields, not 5 (minute, hour, day of the month, month, day of the week)"
    for text, (name, least, most, words) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            if problem := _part_wrong(part, least, most, words):
                return f"has {problem} for its {name} ({least} to {most})"
    return ""


def _part_wrong(text: str, least: int, most: int, words: dict[str, int]) -> str:
    span, slash, step = text.partition("/")
    if slash and (not step.isascii() or not step.isdigit() or int(step) == 0):
        return f"the step '{step}'"
    if span in ("*", "?"):
        return ""
    ends = span.split("-")
    numbers = [words.get(end.lower(), int(end) if end.isascii() and end.isdigit() else -1) for end in ends]
    if len(ends) > 2 or not all(least <= number <= most for number in numbers):
        return f"'{span}'"
    return f"the backward range '{span}'" if numbers[0] > numbers[-1] else ""
