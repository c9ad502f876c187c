"""Write the reference pages of settings, commands, specs and metrics from the code.

python -m tests.support.reference [settings|cli|specs|metrics ...]

Meanings are the docstrings below fields, the help of commands and the texts of metrics: to change a page, change these.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel, IPvAnyNetwork
from pydantic.fields import FieldInfo

from rayplane import errors
from rayplane.client.cli import main as cli
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns import NOUNS, RUN, base, job, team
from rayplane.nouns.base import Metadata
from rayplane.settings import GatewaySettings, find_home

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"
PLATFORM = ROOT / "platform" / "rayplane"


@dataclass(frozen=True)
class Variable:
    """An environment variable that is no setting of the gateway."""

    name: str
    reader: str
    meaning: str


VARIABLES = (
    Variable("RAYPLANE_URL", "commands, SDK", "URL of the gateway; default: that of the home's platform."),
    Variable(
        "RAYPLANE_TOKEN_PATH",
        "commands, SDK, workers",
        "File with the token to send; default: the home's `token`. On a cluster's nodes: the file with its own token.",
    ),
    Variable(
        "RAYPLANE_TEAM",
        "commands, a team's code",
        "Team of commands without `--team`. On a cluster's nodes: the team that they belong to.",
    ),
    Variable("RAYPLANE_CACHE", "`rayplane up`, tools", "Folder of downloaded tools; default: `rayplane` in the cache."),
    Variable("XDG_CACHE_HOME", "`rayplane up`, tools", "The user's cache; default: `~/.cache`."),
    Variable("RAYPLANE_GATEWAY_URL", "workers", "URL of the gateway; the backend sets it on a cluster's nodes."),
    Variable("RAYPLANE_CLUSTER", "a team's code", "Name of the cluster; not set on nodes of a job's or service's own."),
    Variable(
        "RAYPLANE_MLFLOW_CREDENTIALS",
        "workers",
        "File with the team's MLflow user and password, each on a line; the backend sets it on a cluster's nodes.",
    ),
    Variable(
        "RAYPLANE_SUBMISSION_ID",
        "workers",
        "Ray's id of this attempt of the job, which the worker exchanges for its RunContext.",
    ),
    Variable("RAYPLANE_WARM_LOG", "a node's warm interpreter", "Lowest level of its log records; default: `WARNING`."),
    Variable(
        "RAYPLANE_MARK",
        "the platform itself",
        "Mark of the processes that belong to one home, by which `rayplane down` finds them.",
    ),
    Variable(
        "RAYPLANE_LISTENER",
        "the platform itself",
        "Number of an open listening socket that a process inherits from its supervisor.",
    ),
    Variable(
        "RAYPLANE_TEST_SESSION",
        "the tests",
        "Mark of the processes that a session of tests started; one that is left over fails the session.",
    ),
)


# --- parts that pages share -------------------------------------------------------------------------------------------


def docstrings(cls: type) -> dict[str, str]:
    """Field -> the docstring below it, in the class and its bases; docstrings are not kept at run time."""
    texts: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if each.__module__.startswith("rayplane."):
            texts |= _docstrings_of(each)
    return texts


def _docstrings_of(cls: type) -> dict[str, str]:
    [body] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            assert isinstance(text, ast.Expr)
            assert isinstance(text.value, ast.Constant)
            texts[field.target.id] = inspect.cleandoc(str(text.value.value))
    return texts


_WORDS: tuple[tuple[Any, str], ...] = (
    (base.Name, "name"),
    (team.TeamName, "name"),
    (base.Quantity, "quantity"),
    (base.Seconds, "duration"),
    (base.Time, "duration"),
    (base.Count, "whole number"),
    (base.Whole, "whole number"),
    (base.Number, "number"),
    (base.Instant, "instant"),
    (base.Package, "package"),
    (base.Labels, "map of text to text"),
    (job.Variables, "map of text to text"),
    (bool, "true or false"),
    (int, "whole number"),
    (float, "number"),
    (str, "text"),
    (Path, "path"),
    (IPvAnyNetwork, "network"),
    (Any, "any JSON"),
)
"""Type -> the word for it on the pages."""


def form(annotation: Any) -> str:
    """A type in words; models are links to their own section."""
    for known, word in _WORDS:
        if annotation is known or annotation == known:
            return word
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (typing.Union, UnionType):
        return " or ".join(form(each) for each in arguments if each is not type(None))
    if origin is typing.Annotated:
        return form(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(f"`{each}`" for each in arguments)
    if origin is list:
        return f"list of {form(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)} values: {form(arguments[0])}"
    if origin is dict:
        return f"map of {form(arguments[0])} to {form(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return str(getattr(annotation, "__name__", annotation))


def bounds(field: FieldInfo) -> str:
    """The least and greatest value of a number, if its field has any but zero."""

    def limits(name: str) -> list[float]:
        return [limit for each in field.metadata if (limit := getattr(each, name, None)) is not None]

    least, above, most = limits("ge"), limits("gt"), limits("le")
    parts = [f"at least {max(least)}"] if least and max(least) > 0 else []
    parts += [f"above {max(above)}"] if above else []
    parts += [f"at most {min(most)}"] if most else []
    return ", ".join(parts)


def default(field: FieldInfo) -> str:
    """The default as JSON; empty for null, of which the meaning speaks, and ``required`` where there is none."""
    if field.is_required():
        return "required"
    if field.default_factory is find_home:
        return ""  # its docstring says how it is found
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value == "":
        return ""
    plain = field_json(value)
    return f"`{json.dumps(plain, ensure_ascii=False)}`" if not isinstance(plain, str) else f"`{plain}`"


def field_json(value: Any) -> Any:
    """A default as plain JSON."""
    if isinstance(value, BaseModel):
        return field_json(value.model_dump(mode="json", exclude_none=True))
    if isinstance(value, dict):
        return {key: field_json(each) for key, each in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value) if isinstance(value, Path) else value


def cell(text: str) -> str:
    """A text as a cell of a table, on one line."""
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table's lines."""
    names = list(heads)
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(cell(each) for each in row)} |"


def _made_by(page: str, source: str) -> str:
    return f"<!-- Made by `python -m tests.support.reference {page}` from {source}. -->"


# --- settings ---------------------------------------------------------------------------------------------------------


def settings_page() -> Iterator[str]:
    """Every setting, and every other environment variable that the project reads."""
    yield "# Settings"
    yield ""
    yield _made_by("settings", "the models of the settings")
    yield ""
    yield "Settings are environment variables of the process that reads them. A list or a map is written as JSON."
    yield "Only the URL of a database may hold a secret, its password; what else needs one names a file of mode 0600."
    yield ""
    yield "## Gateway and `rayplane up`"
    yield ""
    yield from _settings(GatewaySettings)
    yield ""
    yield "## Kubernetes"
    yield ""
    yield "Read by the backend `kubernetes` alone. [How to run clusters on Kubernetes](../how-to/kubernetes.md) says"
    yield "which of them an installation needs."
    yield ""
    yield from _settings(KubernetesSettings)
    yield ""
    yield "## Other variables"
    yield ""
    yield "Those that workers read are set by the platform. What it sets for Ray and MLflow besides is in"
    yield "[architecture.md](../architecture.md#strings-that-rooms-share)."
    yield ""
    rows = ((f"`{each.name}`", each.reader, each.meaning) for each in VARIABLES)
    yield from table(("variable", "read by", "meaning"), rows)


def _settings(model: type[BaseModel]) -> Iterator[str]:
    prefix = str(model.model_config.get("env_prefix", ""))
    hints, meanings = typing.get_type_hints(model, include_extras=True), docstrings(model)
    rows = []
    for name, field in model.model_fields.items():
        kind = ", ".join(filter(None, [form(hints[name]), bounds(field)]))
        rows.append((f"`{prefix}{name.upper()}`", kind, default(field), meanings[name]))
    yield from table(("variable", "type", "default", "meaning"), rows)


# --- commands ---------------------------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Words of each command (``rayplane job submit``) -> the command; groups and hidden commands are left out."""
    by_words: dict[str, Any] = {}
    for name in cli.COMMANDS:
        by_words |= _commands_below(f"rayplane {name}", cli._load(name))
    return by_words


def _commands_below(words: str, command: Any) -> dict[str, Any]:
    parts = getattr(command, "commands", None)
    if parts is None:
        return {} if command.hidden else {words: command}
    return {
        name: each for part, below in parts.items() for name, each in _commands_below(f"{words} {part}", below).items()
    }


def options(command: Any) -> list[Any]:
    """A command's options."""
    return [each for each in command.params if each.param_type_name == "option"]


def cli_page() -> Iterator[str]:
    """Every command with its arguments and options."""
    yield "# Commands"
    yield ""
    yield _made_by("cli", "the commands themselves")
    yield ""
    yield "Options of `rayplane` itself come before the command's name:"
    yield ""
    yield from _parameters(options(typer.main.get_command(cli.app)))
    yield ""
    yield "## Exit codes"
    yield ""
    yield "0 is success; a command that follows a job ends as the job's entrypoint did."
    yield ""
    yield from table(("code", "of errors"), _exit_codes())
    yield ""
    yield "## All commands"
    by_words = commands()
    yield ""
    yield from table(
        ("command", "does"), ((f"[`{words}`](#{_anchor(words)})", _first(each)) for words, each in by_words.items())
    )
    for words, command in by_words.items():
        yield ""
        yield f"## `{words}`"
        yield ""
        yield f"`{' '.join([words, '[OPTIONS]', *_usage(command)])}`"
        yield ""
        yield textwrap.dedent(command.help or "").strip()
        yield ""
        yield from _parameters(command.params)


def _exit_codes() -> Iterator[tuple[str, str]]:
    titles: dict[int, list[str]] = {}
    for each in errors._all_classes():
        if each.__module__ == errors.__name__:
            titles.setdefault(each.exit_code, []).append(each.title)
    for code, names in sorted(titles.items()):
        yield str(code), ", ".join(dict.fromkeys(names))


def _anchor(words: str) -> str:
    return words.replace(" ", "-")


def _first(command: Any) -> str:
    return str(command.help or "").strip().split("\n\n")[0]


def _usage(command: Any) -> Iterator[str]:
    for each in command.params:
        if each.param_type_name == "argument":
            word = each.metavar or each.name.upper()
            word += "..." if each.nargs == -1 else ""
            yield word if each.required else f"[{word}]"


def _parameters(parameters: Iterable[Any]) -> Iterator[str]:
    rows = []
    for each in parameters:
        if each.param_type_name == "argument":
            names = f"`{each.metavar or each.name.upper()}`"
        else:
            names = ", ".join(f"`{name}`" for name in [*each.opts, *each.secondary_opts])
        meaning = (each.help or "").strip()
        if each.param_type_name == "option" and each.multiple and "repeat" not in meaning:
            meaning += " May repeat."
        if each.envvar:
            meaning += f" The variable `{each.envvar}` says it too."
        rows.append((names, _takes(each), _default_of(each), meaning))
    yield from table(("parameter", "takes", "default", "meaning"), rows)


def _takes(parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    if parameter.param_type_name == "option" and parameter.is_flag:
        return ""
    if parameter.metavar and parameter.param_type_name == "option":
        return f"`{parameter.metavar}`"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(f"`{each.value}`" for each in annotation)
    inner = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    least, most = getattr(parameter, "min", None), getattr(parameter, "max", None)
    limits = [f"at least {least}"] if least is not None else []
    limits += [f"at most {most}"] if most is not None else []
    return ", ".join([form(inner), *limits])


def _default_of(parameter: Any) -> str:
    if parameter.required:
        return "required"
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    value = getattr(parameter.default, "value", parameter.default)
    if parameter.param_type_name == "option" and parameter.is_flag:
        return f"`{(parameter.opts if value else parameter.secondary_opts)[0]}`" if parameter.secondary_opts else ""
    return "" if value is None else f"`{value}`"


# --- specs ------------------------------------------------------------------------------------------------------------


def specs_page() -> Iterator[str]:
    """Every kind's spec and status, with the models that they hold."""
    yield "# Specs and statuses"
    yield ""
    yield _made_by("specs", "the models of the nouns")
    yield ""
    yield "A document has a `kind`, `metadata` and a `spec`; the platform adds a `status`. A field that is not listed"
    yield "is refused in a spec. A field without a default that is not required is null, which the meanings call None."
    yield "Words for types:"
    yield ""
    yield from table(("type", "is"), _TYPES.items())
    yield ""
    yield "## Metadata"
    yield ""
    yield "The same for each kind. A user writes `name`, `team` and `labels`; the platform sets the rest."
    yield ""
    yield from _fields(Metadata)
    shown: list[type[BaseModel]] = []
    for noun in (*NOUNS, RUN):
        yield ""
        yield f"## {noun.kind}"
        if noun is not RUN:
            yield ""
            yield f"[What it is for, and an example](nouns/{noun.singular}.md)."
        both: tuple[type[BaseModel], ...] = (noun.spec, noun.status)
        for model in both:
            yield from _model(model)
        shown += both
    yield ""
    yield "## Parts"
    yield ""
    yield "Models that the fields above hold."
    parts: list[type[BaseModel]] = []
    for model in shown:
        _collect(model, parts)
    for model in sorted(set(parts) - set(shown), key=lambda each: each.__name__):
        yield from _model(model)


_TYPES = {
    "name": "at most 40 lower-case letters, digits and `-`, with a letter or digit at both ends",
    "quantity": "a number, not negative, or a text such as `500m`, `2` or `16Gi`",
    "duration": "a number of seconds, not negative, or a text such as `90s`, `1h30m` or `14d`",
    "whole number": "one that is not negative",
    "instant": "a date, a time and a zone, such as `2026-01-31T12:00:00Z`",
    "package": "`sha256:` and 64 hex digits; in a file for `rayplane apply` a folder, which is uploaded",
}
"""Words for types -> their forms."""


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from models_in(each)


def _collect(model: type[BaseModel], parts: list[type[BaseModel]]) -> None:
    for field in model.model_fields.values():
        for each in models_in(field.annotation):
            if each not in parts:
                parts.append(each)
                _collect(each, parts)


def _model(model: type[BaseModel]) -> Iterator[str]:
    yield ""
    yield f"### {model.__name__}"
    yield ""
    yield " ".join(inspect.cleandoc(model.__doc__ or "").replace("``", "`").split("\n"))
    yield ""
    yield from _fields(model)


def _fields(model: type[BaseModel]) -> Iterator[str]:
    hints, meanings = typing.get_type_hints(model, include_extras=True), docstrings(model)
    rows = []
    for name, field in model.model_fields.items():
        kind = ", ".join(filter(None, [form(hints[name]), bounds(field)]))
        rows.append((f"`{name}`", kind, _default_in(model, field), meanings[name]))
    yield from table(("field", "type", "default", "meaning"), rows)


def _default_in(model: type[BaseModel], field: FieldInfo) -> str:
    if field.default_factory is base.utcnow:
        return "now"
    is_written_by_a_user = issubclass(model, base.Spec | base.Metadata)
    return "always set" if field.is_required() and not is_written_by_a_user else default(field)


# --- metrics ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A metric as its declaration in the code says."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str


GATEWAY_METRICS = PLATFORM / "gateway" / "metrics.py"
SERVICE_METRICS = PLATFORM / "runtime" / "serving" / "app.py"
_MAKERS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "_counter": "counter"}


def metrics_of(path: Path) -> list[Metric]:
    """The metrics that a module declares, in its order."""
    tree = ast.parse(path.read_text())
    keys = _keys_of_dicts(tree)
    declared = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            maker = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if maker in _MAKERS and isinstance(node.args[0].value, str):
                declared.append((node.lineno, _metric(_MAKERS[maker], node, keys)))
    return [metric for _, metric in sorted(declared, key=lambda each: each[0])]


def _keys_of_dicts(tree: ast.AST) -> dict[str, tuple[str, ...]]:
    """Variable -> the keys of the dict that is assigned to it."""
    return {
        node.target.id: tuple(str(key.value) for key in node.value.keys if isinstance(key, ast.Constant))
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Dict)
    }


def _metric(type_: str, call: ast.Call, keys: Mapping[str, tuple[str, ...]]) -> Metric:
    keywords = {each.arg: each.value for each in call.keywords}
    meaning = call.args[1] if len(call.args) > 1 else keywords["description"]
    assert isinstance(meaning, ast.Constant)
    labels: list[str] = []
    for part in [*call.args[2:], *([keywords["tag_keys"]] if "tag_keys" in keywords else [])]:
        for node in ast.walk(part):
            if isinstance(node, ast.Constant):
                labels.append(str(node.value))
            elif isinstance(node, ast.Name):
                labels.extend(keys.get(node.id, ()))
    return Metric(str(getattr(call.args[0], "value", "")), type_, tuple(labels), str(meaning.value))


def metrics_page() -> Iterator[str]:
    """Every metric of the gateway and of services."""
    yield "# Metrics"
    yield ""
    yield _made_by("metrics", "the declarations of the metrics")
    yield ""
    yield "Prometheus asks the gateway for its targets (`GET /sd/prometheus`). Each has the label `component`; one of a"
    yield "cluster, job or service has its `team` and its name too. Rules are in `deploy/prometheus`, a dashboard is in"
    yield "`deploy/grafana`. A histogram has `_bucket`, `_sum` and `_count` behind its name."
    yield ""
    yield "## Gateway"
    yield ""
    yield "`GET /metrics`, for an admin's token or that of Prometheus."
    yield ""
    yield from _metrics(metrics_of(GATEWAY_METRICS))
    yield ""
    yield "## Services"
    yield ""
    yield "Each replica of a model hands them to Ray, whose exporters Prometheus scrapes; Ray and Serve have metrics of"
    yield "their own beside them. Ray puts `ray_` before the name and `_total` behind a counter's; Serve adds the"
    yield "labels `application`, `deployment` and `replica`."
    yield ""
    yield from _metrics(metrics_of(SERVICE_METRICS), exported=_exported_by_ray)


def _exported_by_ray(metric: Metric) -> str:
    return f"ray_{metric.name}{'_total' if metric.type == 'counter' else ''}"


def _metrics(
    declared: Iterable[Metric], exported: Callable[[Metric], str] = lambda metric: metric.name
) -> Iterator[str]:
    rows = (
        (f"`{exported(each)}`", each.type, ", ".join(f"`{label}`" for label in each.labels), each.meaning)
        for each in declared
    )
    yield from table(("metric", "type", "labels", "meaning"), rows)


# --- files ------------------------------------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "settings": settings_page,
    "cli": cli_page,
    "specs": specs_page,
    "metrics": metrics_page,
}


@lru_cache
def page(name: str) -> str:
    """A page's expected text."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(PAGES[name]())) + "\n"


def path_of(name: str) -> Path:
    """A page's file."""
    return FOLDER / f"{name}.md"


def write(names: Iterable[str]) -> None:
    """Write the pages of these names."""
    for name in names:
        path_of(name).write_text(page(name))


if __name__ == "__main__":
    write(sys.argv[1:] or PAGES)
