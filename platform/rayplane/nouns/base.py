"""What all nouns share: metadata, conditions, specs that refuse unknown keys, records that ignore them."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from rayplane.errors import InvalidSpec
from rayplane.text import check_plain, printable

# A name is at most 40 characters so that every derived name (a Service, a head pod, a label) stays within 63.
MAX_NAME = 40
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")


def check_name(value: str) -> str:
    """A DNS-1123 label of at most 40 characters; raises ValueError that says which rule is broken."""
    if len(value) > MAX_NAME:
        raise ValueError(f"'{_short(value)}' has {len(value)} characters; a name has at most {MAX_NAME}")
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"'{_short(value)}' is not a name: use lower-case letters, digits and '-', with a letter or digit at both "
            "ends"
        )
    return value


Name = Annotated[str, AfterValidator(check_name)]
"""A DNS-1123 label, short enough for every name derived from it."""


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise ValueError naming the first key or value that no label may have; a key is also asked for by a query."""
    for key, value in labels.items():
        for part in (key, value):
            try:
                check_plain(part)
            except ValueError as exc:
                raise ValueError(f"label {exc}") from exc
        if not key or '"' in key or "\\" in key:
            raise ValueError(f"'{key}' is no label's key: it is not empty, and holds no quotation mark or backslash")


_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")


def parse_quantity(value: Any) -> Any:
    """A Kubernetes quantity ("16Gi", "500m", 2) as a float in base units (bytes, cores, devices)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(_float(value), value)
    match = _QUANTITY.fullmatch(str(value).strip())
    if not match:
        raise ValueError(
            f"'{_short(value)}' is not a quantity: write a number with an optional suffix, such as 500m, 2 or 16Gi"
        )
    try:
        number = Decimal(match[1])
    except InvalidOperation as exc:  # pragma: no cover - the pattern only lets numbers through
        raise ValueError(f"'{value}' is not a number") from exc
    suffix = match[2] or ""
    return _finite(float(number / 1000) if suffix == "m" else float(number * _SUFFIX[suffix]), value)


def _float(value: int | float) -> float:
    """As Python's own, but for a number that none holds, which is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _finite(number: float, value: Any) -> float:
    if not math.isfinite(number):
        raise ValueError(f"'{_short(value)}' is no amount: write a number that is finite")
    return number


def _short(value: Any) -> str:
    text = str(value)
    # Visibly, since pydantic can't tell of an error whose message holds half of a surrogate pair.
    return printable(text if len(text) <= 60 else f"{text[:60]}...")


Quantity = Annotated[float, BeforeValidator(parse_quantity), Field(ge=0)]
"""An amount in base units (bytes, cores, devices), written as in Kubernetes."""

_PART = r"(\d++(?:\.\d++)?)(ms|s|m|h|d)"
# Possessive and of the whole: a pattern that is sought takes a time that grows with the square of a long number.
_DURATION, _DURATION_PART = re.compile(f"(?:{_PART})+"), re.compile(_PART)
_LONGEST = 36_500 * 86_400.0
"""Seconds; what is longer can't be added to a date."""
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: Any) -> Any:
    """A duration ("90s", "1h30m", "14d", or a number of seconds) in seconds. Raises ValueError above 100 years."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = _float(value)
    else:
        text = str(value).strip()
        if not _DURATION.fullmatch(text):
            raise ValueError(f"'{_short(value)}' is not a duration: write it as 30s, 10m, 1h30m or 14d")
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if not seconds <= _LONGEST:  # nor is what is no number
        raise ValueError(
            f"'{_short(value)}' is longer than {_LONGEST / _SECONDS['d']:.0f} days: write less, or leave it out"
        )
    return seconds


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
"""A duration in seconds, written as in "1h30m"."""


ASKED = "asked"
"""The context in which what a user asks for is parsed; what is kept already is read by the older, wider rules."""
_MOST = 2**31 - 1


def _countable(value: int, info: ValidationInfo) -> int:
    if info.context == ASKED and value > _MOST:
        raise ValueError(f"Input should be less than or equal to {_MOST}")
    return value


Count = Annotated[int, Field(ge=0, json_schema_extra={"maximum": _MOST}), AfterValidator(_countable)]
"""How many: as many as Kubernetes counts."""

MOST_LEVELS = 100
"""How deeply a JSON value may be nested: what one stack could just read, a deeper one could not read again."""


def check_json(value: Any) -> Any:
    """What can be kept as JSON and written as UTF-8; raises ValueError that says why something can't.

    JSON itself can say half of a surrogate pair, which is no text; YAML can say a list that holds itself.
    """
    try:
        json.dumps(value, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError as exc:
        raise ValueError("it holds half of a surrogate pair, which is no text") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    except ValueError as exc:
        raise ValueError("it holds itself") from exc
    _check_levels(value)
    return value


def _check_levels(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(MOST_LEVELS):
        level = [part for item in level for part in _parts(item)]
        if not level:
            return
    raise ValueError(f"it is nested too deeply: more than {MOST_LEVELS} levels")


def _parts(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list | tuple) else ()


Text = Annotated[str, AfterValidator(check_json)]
"""A text that can be written: no half of a surrogate pair, which JSON can say and pydantic lets through."""

JsonObject = Annotated[dict[str, Any], AfterValidator(check_json)]
"""A JSON object that nobody looks into, all of whose texts can be written."""


def utcnow() -> datetime:
    """The present instant, with its zone."""
    return datetime.now(UTC)


def check_instant(value: datetime) -> datetime:
    """An instant that has a date in UTC; raises ValueError for one beyond the ends of the calendar."""
    try:
        value.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(f"'{value.isoformat()}' is in no year of UTC: it has those from 1 to 9999") from exc
    return value


Instant = Annotated[
    AwareDatetime,
    AfterValidator(check_instant),
    PlainSerializer(lambda t: t.astimezone(UTC).isoformat().replace("+00:00", "Z"), return_type=str, when_used="json"),
]


class Spec(BaseModel):
    """What a user asks for. Unknown keys are refused, with the nearest right one."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Record(BaseModel):
    """What a process left behind. Versioned; unknown keys are ignored, so an older reader survives a newer writer."""

    model_config = ConfigDict(extra="ignore")
    schema_version: int = 1


class Condition(Record):
    """One aspect of an object's state, as in Kubernetes."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_transition_time: Instant = Field(default_factory=utcnow)


class Status(Record):
    """What the reconciler last saw. ``phase`` is one word for people; conditions are for programs."""

    phase: str = "Pending"
    observed_generation: int = 0
    conditions: list[Condition] = Field(default_factory=list)

    def condition(self, type_: str) -> Condition | None:
        """The condition of this type, if it was ever set."""
        return next((c for c in self.conditions if c.type == type_), None)

    def set_condition(self, type_: str, status: bool, reason: str, message: str, generation: int) -> None:
        """Set one condition in place; its transition time moves only when its status does."""
        new = Condition(
            type=type_,
            status="True" if status else "False",
            reason=reason,
            message=message,
            observed_generation=generation,
        )
        old = self.condition(type_)
        if old is None:
            self.conditions.append(new)
            return
        if old.status == new.status:
            new.last_transition_time = old.last_transition_time
        self.conditions[self.conditions.index(old)] = new


class Metadata(BaseModel):
    """Who an object is. The store sets all but team, name and labels."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    team: Name | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    uid: str = ""
    generation: int = 0
    resource_version: int = 0
    owner: str = ""
    created_at: Instant | None = None
    updated_at: Instant | None = None
    deleted_at: Instant | None = None


class Document(BaseModel):
    """One YAML document as a user writes it: kind, metadata, spec (not yet parsed)."""

    model_config = ConfigDict(extra="forbid")
    kind: str
    metadata: Metadata
    spec: dict[str, Any] = Field(default_factory=dict)

    @field_validator("metadata")
    @classmethod
    def _labelled(cls, value: Metadata) -> Metadata:
        # Not by the metadata's own type, by which an object is read, too: one kept before there was this rule.
        check_labels(value.labels)
        return value


class Object(BaseModel):
    """An object as the API shows it: kind, metadata, spec, status as plain data."""

    model_config = ConfigDict(extra="ignore")
    kind: str
    metadata: Metadata
    spec: dict[str, Any] = Field(default_factory=dict)
    status: dict[str, Any] = Field(default_factory=dict)

    @property
    def etag(self) -> str:
        """The strong ETag of this version of the object."""
        return f'"{self.metadata.resource_version}"'


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], value: Any, path: str) -> M:
    """Validate ``value`` as ``model``; raises InvalidSpec that names every wrong field and the nearest right one."""
    try:
        return model.model_validate(check_json(value), context=ASKED)
    except ValidationError as exc:
        lines = [_explain(model, error, path) for error in exc.errors()]
    except ValueError as exc:
        lines = [f"{path}: {exc}."]
    raise InvalidSpec("; ".join(lines), errors=lines)


def _explain(model: type[BaseModel], error: Any, path: str) -> str:
    loc = [str(part) for part in error["loc"]]
    where = ".".join([path, *loc]) if loc else path
    if error["type"] == "extra_forbidden":
        names = _field_names(model, loc[:-1])
        near = difflib.get_close_matches(loc[-1], names, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(sorted(names)) or 'none'}."
        return f"{where}: unknown field.{hint}"
    if error["type"] == "missing":
        return f"{where}: required, but missing."
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}."


def _field_names(model: type[BaseModel], loc: list[str]) -> list[str]:
    current: Any = model
    for part in loc:
        fields = getattr(current, "model_fields", None)
        if fields is None:
            return []
        if part in fields:
            current = _inner_model(fields[part].annotation)
        # any other part is a list index or a mapping's key: the model stays the element's
    return list(getattr(current, "model_fields", {}))


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


class NounType(BaseModel):
    """One row of the table of nouns: how a noun is called and what its spec and status are."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)
    kind: str
    singular: str
    plural: str
    spec: type[Spec]
    status: type[Status]
    team_scoped: bool = True
    columns: tuple[tuple[str, str], ...] = ()
    """(heading, dotted path in the object) of the columns of a list, after NAME."""

    CORE: ClassVar[tuple[str, ...]] = ("kind", "metadata", "spec", "status")
