"""What a configuration can say, for people: groups with their options, and keys with default and meaning.

Everything is read from where it is defined: the YAML files below conf/ and their comments, and the settings classes
and the comments behind their fields. Nothing is composed, and no heavy library is imported.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from conf.schema import RunConfig
from storage.plugins import Family

CONF = Path(__file__).resolve().parent
_REQUIRED = "???"


@dataclass(frozen=True)
class Group:
    """A folder of conf/: `name=option` chooses a file. default: None where nothing need be chosen."""

    name: str
    default: str | None
    options: Mapping[str, str]  # option -> what its file says of itself


@dataclass(frozen=True)
class Key:
    """One key. default: as it is written in YAML. file: the YAML file that sets it, below the project; "" for none."""

    name: str
    default: str
    meaning: str
    file: str


def groups() -> list[Group]:
    """The groups in the order of conf/config.yaml."""
    chosen = _chosen_by_default()
    return [
        Group(name, option, {path.stem: _header(path) for path in sorted((CONF / name).glob("*.yaml"))})
        for name, option in chosen.items()
    ]


def keys(words: Sequence[str] = ()) -> list[Key]:
    """Every key of a run, with the options that `words` (group=option) choose; the others as in conf/config.yaml."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    written = dict(_written(CONF / "config.yaml"))
    for name, default in _chosen_by_default().items():
        option = given.get(name) or default
        path = CONF / name / f"{option}.yaml"
        if option and name in RunConfig.model_fields and path.is_file():
            written |= {f"{name}.{key}": line for key, line in _written(path).items()}
    return list(_described(RunConfig, "", written))


def settings_keys(model: type[BaseModel]) -> list[Key]:
    """The keys of one settings class, nested ones included, with the defaults and comments of its fields."""
    return list(_described(model, "", {}))


@dataclass(frozen=True)
class _Line:
    """A key as a YAML file has it."""

    value: str
    comment: str
    file: str


def _described(model: type[BaseModel], prefix: str, written: Mapping[str, _Line]) -> Iterator[Key]:
    comments = _field_comments(model)
    for name, field in model.model_fields.items():
        place = prefix + name
        inner = _inner_model(field, place, written)
        if inner is not None:
            yield from _described(inner, f"{place}.", written)
            continue
        line = written.get(place)
        meaning = (line.comment if line else "") or comments.get(name, "")
        if not meaning and name in ("kind", "name") and prefix:
            meaning = f"set by {prefix.removesuffix('.')}=<option>"
        yield Key(place, line.value if line else _plain(field), meaning, line.file if line else "")


def _inner_model(field: FieldInfo, place: str, written: Mapping[str, _Line]) -> type[BaseModel] | None:
    """The settings class whose keys are the keys below `place`; None for a field with a value of its own."""
    families = [mark for mark in field.metadata if isinstance(mark, Family)]
    kinds = [kind for kind in _classes(field.annotation) if issubclass(kind, BaseModel)]
    if families:
        named = written.get(f"{place}.{families[0].field}")
        return families[0].ours().get(named.value) if named else None
    chosen = any(key.startswith(f"{place}.") for key in written)
    if not kinds or (type(None) in get_args(field.annotation) and not chosen):
        return None
    if len(kinds) == 1 and {*_classes(field.annotation)} <= {kinds[0], type(None)}:
        return kinds[0]
    named = written.get(f"{place}.kind")
    fitting = [kind for kind in kinds if "kind" in kind.model_fields and named and _kind(kind) == named.value]
    return fitting[0] if fitting else None


def _classes(annotation: Any) -> list[type]:
    inner = get_args(annotation)
    if isinstance(annotation, type) and not inner:
        return [annotation]
    return [kind for each in inner for kind in _classes(each)] if _is_union(annotation) else []


def _is_union(annotation: Any) -> bool:
    return "Union" in type(annotation).__name__ or str(getattr(annotation, "__origin__", "")).endswith("Union")


def _kind(model: type[BaseModel]) -> str:
    return str(get_args(model.model_fields["kind"].annotation)[0])


def _plain(field: FieldInfo) -> str:
    """The default of a field, as YAML."""
    if field.is_required():
        return _REQUIRED
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    if isinstance(default, Path):
        default = default.as_posix()
    return yaml_value(default)


def yaml_value(value: object) -> str:
    """A plain value on one line, as YAML writes it."""
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


@cache
def _field_comments(model: type[BaseModel]) -> dict[str, str]:
    """The comment behind each field in the source of its class, or in the lines above it."""
    comments: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if kind is BaseModel or not issubclass(kind, BaseModel):
            continue
        source = textwrap.dedent(inspect.getsource(kind))
        lines = source.splitlines()
        body = ast.parse(source).body[0]
        assert isinstance(body, ast.ClassDef)
        for node in body.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                last = lines[(node.end_lineno or node.lineno) - 1].encode()[node.end_col_offset or 0 :].decode()
                found = _comment(last) or _above(lines, node.lineno - 1)
                if found:
                    comments[node.target.id] = found
    return comments


def _comment(rest: str) -> str:
    """The comment in the rest of a line; tools' own comments are none."""
    text = rest.strip().lstrip(",").strip()
    if not text.startswith("#"):
        return ""
    said = text.lstrip("#: ").strip()
    return "" if said.startswith(("type:", "noqa", "fmt:")) else said.partition("  #")[0]


def _above(lines: Sequence[str], line: int) -> str:
    """The comment lines right above `line` with the same indent; a file's first lines are about the whole file."""
    indent = len(lines[line]) - len(lines[line].lstrip())
    start = line
    while start and lines[start - 1].startswith(" " * indent + "#"):
        start -= 1
    return " ".join(each.strip().lstrip("#: ") for each in lines[start:line]) if start else ""


@cache
def _chosen_by_default() -> dict[str, str | None]:
    """The option of each group in the defaults of conf/config.yaml."""
    chosen: dict[str, str | None] = {}
    for entry in yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]:
        if isinstance(entry, dict):
            for group, option in entry.items():
                chosen[group.removeprefix("optional ")] = option
    return chosen


def _header(path: Path) -> str:
    """The first sentence of the comment that a YAML file begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    text = " ".join(lines)
    return text.partition(". ")[0].rstrip(".: ")


@cache
def _written(path: Path) -> Mapping[str, _Line]:
    """The keys that a group's file sets, with those of the files that its defaults name."""
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return {}
    lines: dict[str, _Line] = {}
    for base in (yaml.safe_load(text) or {}).get("defaults", []):
        if isinstance(base, str) and base != "_self_" and path.parent != CONF:
            lines |= _written(path.parent / f"{base}.yaml")
    own = dict(_lines(root, "", text.splitlines(), path.relative_to(CONF.parent).as_posix()))
    for name, line in own.items():
        inherited = lines.get(name)
        lines[name] = _Line(line.value, line.comment or (inherited.comment if inherited else ""), line.file)
    return lines


def _lines(node: yaml.MappingNode, prefix: str, text: Sequence[str], file: str) -> Iterator[tuple[str, _Line]]:
    for key, value in node.value:
        if prefix == "" and key.value == "defaults":
            continue
        rest = text[value.end_mark.line][value.end_mark.column :] if value.end_mark.line < len(text) else ""
        comment = _comment(rest) or _above(text, key.start_mark.line)
        written = yaml_value(yaml.safe_load(yaml.serialize(value)))
        yield prefix + key.value, _Line(written, comment, file)
        if isinstance(value, yaml.MappingNode):
            yield from _lines(value, f"{prefix}{key.value}.", text, file)
