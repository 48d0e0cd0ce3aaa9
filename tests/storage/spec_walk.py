"""Walks over the types of specs: every stage of the product, its settings, unions, mappings and lists."""

import dataclasses
import pkgutil
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import tasks
from storage.artifact import Artifact
from storage.plugins import Family
from storage.stage import KeyedBy, Spec, Unkeyed
from tasks.generation.registry import ENGINES
from tasks.panel.annotators.registry import ANNOTATORS
from tasks.training.objectives.registry import OBJECTIVES


def product_specs() -> list[type[Spec]]:
    """Every Spec below tasks/, by the modules whose source defines one."""
    for module in pkgutil.walk_packages(tasks.__path__, "tasks."):
        origin = find_spec(module.name)
        if origin and origin.origin and "(Spec)" in Path(origin.origin).read_text(encoding="utf-8"):
            import_module(module.name)
    return sorted((kind for kind in _below(Spec) if kind.__module__.startswith("tasks.")), key=lambda kind: kind.stage)


def _below(kind: type[Spec]) -> set[type[Spec]]:
    return {kind for child in kind.__subclasses__() for kind in {child, *_below(child)}}


def unmarked_paths(spec: type[Spec]) -> list[str]:
    """Fields with a path that is neither an artifact, nor marked Unkeyed, nor keyed by an artifact of the spec."""
    problems = []
    for name, field in spec.model_fields.items():
        if not is_artifact_field(field.annotation):
            problems += _of_field(spec, f"{spec.__name__}.{name}", field.annotation, field.metadata, frozenset())
    return problems


def is_artifact_field(annotation: Any) -> bool:
    """Whether `Spec.inputs` sees the artifacts of a field: one, or a mapping or list of them."""
    return all(
        kind is Artifact
        or (
            (isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping | Sequence))
            and get_args(kind)[-1] is Artifact
        )
        for kind in _members(annotation)
    )


def _of_field(spec: type[Spec], where: str, annotation: Any, marks: Sequence[Any], above: frozenset[Any]) -> list[str]:
    """Only marks on the field itself count: those inside its type do not reach the key."""
    if any(isinstance(mark, Unkeyed) for mark in marks):
        return []
    for mark in marks:
        if isinstance(mark, KeyedBy):
            artifact = spec.model_fields.get(mark.field)
            is_input = artifact is not None and is_artifact_field(artifact.annotation)
            return [] if is_input else [f"{where}: {spec.__name__} has no artifact `{mark.field}`"]
    return _of_type(spec, where, annotation, above)


def _of_type(spec: type[Spec], where: str, annotation: Any, above: frozenset[Any]) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return [f"{where}: a path that is not part of the key"]
    if isinstance(annotation, type) and annotation not in above:
        above |= {annotation}
        if issubclass(annotation, BaseModel):
            fields = [
                (name, field.annotation, field.metadata)
                for member in concrete(annotation)
                for name, field in member.model_fields.items()
            ]
            return [p for name, kind, marks in fields for p in _of_field(spec, f"{where}.{name}", kind, marks, above)]
        if dataclasses.is_dataclass(annotation):
            hints = get_type_hints(annotation)
            return [p for name, kind in hints.items() for p in _of_type(spec, f"{where}.{name}", kind, above)]
    return [p for inner in get_args(annotation) for p in _of_type(spec, where, inner, above)]


def concrete(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The classes of ours that a setting of this type may have: the model itself unless it is abstract."""
    for family in FAMILIES:
        if family.base is model:
            return list(family.ours().values())
    return [model]


def _members(annotation: Any) -> list[Any]:
    """The members of a union, without None; the type itself when it is no union."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for member in get_args(annotation) if member is not type(None) for inner in _members(member)]
    return [annotation]


FAMILIES: tuple[Family[Any], ...] = (ANNOTATORS, ENGINES, OBJECTIVES)

#: (field, a value, another value, whether the key must differ between the two)
Change = tuple[str, Any, Any, bool]


def changes(annotation: Any) -> Iterator[Change]:
    """Two values of a type for everything in it that can differ. Nothing is validated: no type has values for all."""
    for kind in _members(annotation):
        arguments = get_args(kind)
        if kind is Artifact:
            one = Artifact(path=Path("one"), digest="1", maker="round-01/one")
            yield "digest", one, Artifact(path=one.path, digest="2", maker=one.maker), True
            yield "path", one, Artifact(path=Path("other"), digest="1", maker=one.maker), False
            yield "maker", one, Artifact(path=one.path, digest="1", maker=None), False
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            for member in concrete(kind):
                yield from model_changes(member)
        elif get_origin(kind) in (list, tuple, set, frozenset):
            yield from (("[]", [a], [b], keyed) for _, a, b, keyed in changes(arguments[0]))
        elif get_origin(kind) is dict:
            yield from (("{}", {"key": a}, {"key": b}, keyed) for _, a, b, keyed in changes(arguments[1]))
        else:
            yield "", "one", "other", True


def model_changes(kind: type[BaseModel]) -> Iterator[Change]:
    """As `changes`, for a model: one field differs, all others have their defaults."""
    operational: frozenset[str] = getattr(kind, "operational", frozenset())
    for name, field in kind.model_fields.items():
        marked = name in operational or any(isinstance(mark, KeyedBy | Unkeyed) for mark in field.metadata)
        for inner, one, other, keyed in changes(field.annotation):
            pair = _construct(kind, name, one), _construct(kind, name, other)
            yield f"{name}.{inner}".rstrip("."), *pair, keyed and not marked


def _construct(kind: type[BaseModel], changed: str, value: Any) -> BaseModel:
    fields = {name: field.get_default(call_default_factory=True) for name, field in kind.model_fields.items()}
    missing = {name: _any(kind.model_fields[name].annotation) for name in fields if fields[name] is PydanticUndefined}
    return kind.model_construct(**(fields | missing | {changed: value}))


def _any(annotation: Any) -> Any:
    return next(changes(annotation))[1]
