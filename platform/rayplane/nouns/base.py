"""Base types of all nouns: metadata, conditions, specs that refuse unknown keys, records that ignore them."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from rayplane.errors import InvalidSpec
from rayplane.text import PLAIN, UNSAFE, check_plain, printable

# Names are limited to 40 characters so that every derived name (a Service, a head pod, a label) stays within 63.
MAX_NAME = 40
NAME = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_NAME = re.compile(NAME)

# What follows documents in JSON Schema what a check in Python refuses; both are made of the same pattern. A pattern has
# neither \s nor \w nor \d, which Python and JSON Schema read differently.
BLANK = "[ \\t\\r\\n]*"
"""Blanks around a value that is written as text."""


def check_name(value: str) -> str:
    """Return ``value`` if it is a DNS-1123 label of at most 40 characters; raise ValueError naming the broken rule."""
    if len(value) > MAX_NAME:
        raise ValueError(f"'{_short(value)}' has {len(value)} characters; a name has at most {MAX_NAME}")
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"'{_short(value)}' is not a name: use lower-case letters, digits and '-', with a letter or digit at both "
            "ends"
        )
    return value


Name = Annotated[
    str,
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "pattern": NAME, "minLength": 1, "maxLength": MAX_NAME}),
]
"""A DNS-1123 label, short enough for every name derived from it."""


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise ValueError naming the first key or value that is not allowed in a label.

    Keys also appear in SQL's JSON paths when a query filters by label, hence no quotation mark or backslash.
    """
    for key, value in labels.items():
        for part in (key, value):
            try:
                check_plain(part)
            except ValueError as exc:
                raise ValueError(f"label {exc}") from exc
        if not key or '"' in key or "\\" in key:
            raise ValueError(f"'{key}' is no label's key: it is not empty, and holds no quotation mark or backslash")


LABEL_KEY = f'^[^{UNSAFE}"\\\\]+$'
"""The pattern of a label's key."""
Labels = Annotated[
    dict[str, str],
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": LABEL_KEY},
            "additionalProperties": {"type": "string", "pattern": PLAIN},
        },
        mode="validation",
    ),
]
"""Labels. What is kept from before there was this rule is read, too; ``check_labels`` refuses the rest."""
Plain = Annotated[str, WithJsonSchema({"type": "string", "pattern": PLAIN}, mode="validation")]
"""A text whose use case asks ``check_plain`` for it."""
PACKAGE = "^sha256:[0-9a-f]{64}$"
Package = Annotated[str, WithJsonSchema({"type": "string", "pattern": PACKAGE}, mode="validation")]
"""The content address of a code package, which its use case looks for."""

_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# No more digits than a float holds.
_QUANTITY = re.compile(rf"^{BLANK}([0-9]{{1,60}}(?:\.[0-9]{{1,60}})?)(m|Ki|Mi|Gi|Ti|k|M|G|T)?{BLANK}$")


def parse_quantity(value: Any) -> Any:
    """A Kubernetes quantity ("16Gi", "500m", 2) as a float in base units (bytes, cores, devices)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(_float(value), value)
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if not match and isinstance(value, str) and re.match(rf"{BLANK}[0-9]{{61}}", value):
        raise ValueError(f"'{_short(value)}' is no amount: write a number of at most 60 digits")
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
    """Convert as Python does, but make a number that is too large for a float infinite."""
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
    # Escaped, since pydantic can't report an error whose message holds a lone surrogate.
    return printable(text if len(text) <= 60 else f"{text[:60]}...")


Quantity = Annotated[
    float,
    BeforeValidator(parse_quantity),
    Field(ge=0),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": _QUANTITY.pattern}]},
        mode="validation",
    ),
]
"""An amount in base units (bytes, cores, devices), written as in Kubernetes."""

_EXPONENT = re.compile(r"^[+-]?[0-9]{1,30}(\.[0-9]{1,30})?[eE][+-]?[0-9]{1,4}$")


def _as_number(value: Any) -> Any:
    # YAML 1.1 takes 1e-3, without a point or a sign, for a text.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


Number = Annotated[
    float,
    BeforeValidator(_as_number),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": _EXPONENT.pattern}]}, mode="validation"
    ),
]
"""A number; also one that YAML reads as a text, such as 1e-3."""

_PART = r"([0-9]{1,60}(?:\.[0-9]{1,60})?)(ms|s|m|h|d)"
_DURATION = re.compile(rf"^{BLANK}(?:{_PART})+{BLANK}$")
LONGEST = 36_500 * 86_400.0
"""Seconds: 100 years; a longer duration, added to a date, may leave the calendar."""
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: Any) -> Any:
    """A duration ("90s", "1h30m", "14d", or a number of seconds) in seconds. Raises ValueError above 100 years."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = _float(value)
    else:
        if not isinstance(value, str) or not _DURATION.fullmatch(value):
            raise ValueError(f"'{_short(value)}' is not a duration: write it as 30s, 10m, 1h30m or 14d")
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, value))
    if not seconds <= LONGEST:  # "not <=" rather than ">", so that NaN is refused too
        raise ValueError(
            f"'{_short(value)}' is longer than {LONGEST / _SECONDS['d']:.0f} days: write less, or leave it out"
        )
    return seconds


_AS_TEXT = {"type": "string", "pattern": _DURATION.pattern}
Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": LONGEST}, _AS_TEXT]}, mode="validation"),
]
"""A duration in seconds, written as in "1h30m"."""
Time = Annotated[
    Seconds,
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST}, _AS_TEXT]}, mode="validation"
    ),
]
"""A duration that its model wants to be above zero."""


ASKED = "asked"
"""Validation context of what a user asks for now; objects in the store are read by older, more lenient rules."""
MOST = 2**31 - 1
"""The most of anything that is counted."""


def _countable(value: int, info: ValidationInfo) -> int:
    if info.context == ASKED and value > MOST:
        raise ValueError(f"Input should be less than or equal to {MOST}")
    return value


def as_whole(value: Any) -> Any:
    """A float that is a whole number as an int; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, Strict(), BeforeValidator(as_whole)]
"""A whole number; 1.0 is one, as JSON Schema says."""
Count = Annotated[Whole, Field(ge=0, json_schema_extra={"maximum": MOST}), AfterValidator(_countable)]
"""A number of things, at most 2**31 - 1 as in Kubernetes."""

MOST_LEVELS = 100
"""Levels of nesting that a JSON value may have.

Without a limit, a value that one process could just parse might overflow the stack of the next one that reads it.
"""


def check_json(value: Any) -> Any:
    """Return ``value`` if it can be stored as JSON and written as UTF-8; raise ValueError saying why it can't.

    JSON text can contain a lone surrogate, which UTF-8 cannot; YAML can describe a list that contains itself.
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
"""A string that can be encoded: without lone surrogates, which JSON can contain and pydantic lets through."""

JsonObject = Annotated[dict[str, Any], AfterValidator(check_json)]
"""A JSON object that the platform stores without looking into it; all its strings can be encoded as UTF-8."""


def utcnow() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


def check_instant(value: datetime) -> datetime:
    """Return ``value`` if it has a date in UTC; raise ValueError for one beyond the ends of the calendar."""
    try:
        value.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(f"'{value.isoformat()}' is in no year of UTC: it has those from 1 to 9999") from exc
    return value


_INSTANT = re.compile(
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)


def _written_instant(value: Any) -> Any:
    # pydantic takes a number, and a text of digits, for seconds since 1970.
    if isinstance(value, datetime) or (isinstance(value, str) and _INSTANT.fullmatch(value)):
        return value
    raise ValueError(f"'{_short(value)}' is no instant: write a date, a time and a zone, as in 2026-01-31T12:00:00Z")


def _as_written(value: Any) -> str:
    # An older version may have stored another value than a date: it is written back as it is.
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_written_instant),
    AfterValidator(check_instant),
    PlainSerializer(_as_written, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _INSTANT.pattern}),
]


class Spec(BaseModel):
    """The part of an object that a user writes. Unknown keys are refused, suggesting the nearest known key.

    A text where a number belongs is refused as well.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, strict=True)


class Record(BaseModel):
    """Data that a process wrote. Versioned; unknown keys are ignored, so an older reader survives a newer writer."""

    model_config = ConfigDict(extra="ignore")
    schema_version: Whole = 1
    """Version of the record's form."""


class Condition(Record):
    """One aspect of an object's state, as in Kubernetes."""

    type: str
    """Name of the aspect, such as ``Ready``."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown, as text."""
    reason: str = ""
    """One word for programs."""
    message: str = ""
    """One or more sentences for people; empty if there is nothing to say."""
    observed_generation: int = 0
    """Generation of the spec that the condition is about."""
    last_transition_time: Instant = Field(default_factory=utcnow)
    """Time at which ``status`` last changed."""


class Status(Record):
    """The state that the reconciler last observed. ``phase`` is one word for people; conditions are for programs."""

    phase: str = "Pending"
    """One word for the object's state; the phases of a kind are those that its status names."""
    observed_generation: int = 0
    """Generation of the spec that the status is about; lower than the object's until the reconciler has looked."""
    conditions: list[Condition] = Field(default_factory=list)
    """Aspects of the state, each with a reason and a message."""

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
    """Identity and version of an object. The store sets all fields but team, name and labels."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    """Name, unique in the team for its kind; lower-case letters, digits and ``-``."""
    team: Name | None = None
    """Name of the team; None for a team itself."""
    labels: Labels = Field(default_factory=dict)
    """Key -> value; lists can be narrowed by them."""
    uid: str = ""
    """Identifier that no other object ever has, even one of the same name later."""
    generation: Whole = 0
    """Number of the spec's version; every change of the spec raises it."""
    resource_version: Whole = 0
    """Number of the object's version; every write raises it. It is the ``ETag``."""
    owner: str = ""
    """Principal that created the object."""
    created_at: Instant | None = None
    """Time of the first write."""
    updated_at: Instant | None = None
    """Time of the last write."""
    deleted_at: Instant | None = None
    """Time at which a user asked for the deletion; the object goes once everything made for it is gone."""


def etag_of(metadata: Metadata) -> str:
    """The strong ETag of one version of an object."""
    return f'"{metadata.resource_version}"'


class Document(BaseModel):
    """One YAML document as a user writes it: kind, metadata, spec (not yet parsed)."""

    model_config = ConfigDict(extra="forbid")
    kind: str
    metadata: Metadata
    spec: dict[str, Any] = Field(default_factory=dict)

    @field_validator("metadata")
    @classmethod
    def _labelled(cls, value: Metadata) -> Metadata:
        # Not a rule of Metadata itself: the store also parses with it objects that were written before this rule.
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
        return etag_of(self.metadata)


M = TypeVar("M", bound=BaseModel)


def as_stored(model: type[M], data: Any) -> M:
    """The model of stored data; never raises.

    Data that today's rules refuse was written under older ones: each field that fits is parsed, each other one stays as
    it is stored, unknown ones are left out, and rules across fields are not asked. A required field that is missing is
    None; data that is no mapping counts as empty.
    """
    try:
        return model.model_validate(data)
    except ValidationError:
        return _by_fields(model, data if isinstance(data, dict) else {})


def _by_fields(model: type[M], data: Mapping[str, Any]) -> M:
    fields = model.model_fields.items()
    values = {name: _field_as_stored(model, name, data[name]) for name, _ in fields if name in data}
    missing = {name: None for name, field in fields if name not in data and field.is_required()}
    return model.model_construct(**values, **missing)


def _field_as_stored(model: type[BaseModel], name: str, value: Any) -> Any:
    try:
        return _adapter(model, name).validate_python(value)
    except ValidationError:
        annotation = model.model_fields[name].annotation
        inner, origin = _inner_model(annotation), get_origin(annotation)
        if inner is None:
            return value
        if origin is list and isinstance(value, list):
            return [as_stored(inner, item) if isinstance(item, dict) else item for item in value]
        if origin is dict and isinstance(value, dict):
            return {key: as_stored(inner, item) if isinstance(item, dict) else item for key, item in value.items()}
        return as_stored(inner, value) if origin not in (list, dict) and isinstance(value, dict) else value


@cache
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    """Parses one field alone; kept, since an odd row is read at every look."""
    field = model.model_fields[name]
    annotated: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(annotated)


def parse(model: type[M], value: Any, path: str) -> M:
    """Validate ``value`` as ``model``; raises InvalidSpec naming each wrong field and the nearest known one, if any."""
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
        # Any other part is a list index or a mapping's key: the model stays that of the element.
    return list(getattr(current, "model_fields", {}))


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        model = _inner_model(argument)
        if model is not None:
            return model
    return None
