"""Classes that settings choose by name: found in a package of ours, by entry point, or by the path `module:Class`."""

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from storage.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Family(Generic[Model]):
    """All classes of one kind: the models below `base`, each with its name as the default of the field `field`.

    As an annotation, `Annotated[SerializeAsAny[Base], family]`, it reads a mapping as the class that the mapping names.
    """

    noun: str  # what the classes are, for messages: "objective"
    base: type[Model]
    field: str
    package: str  # where ours are, one or more a module
    group: str  # entry points of other packages

    def ours(self) -> Mapping[str, type[Model]]:
        """The classes of our package by name, in the order of their modules. Raises UserError for a name used twice."""
        return _scan(self)

    def names(self) -> list[str]:
        """Names of our classes and of entry points. Loads no entry point."""
        return [*self.ours(), *_entries(self)]

    def find(self, name: str) -> type[Model]:
        """The class called `name`, or at the path `name` (module:Class). Raises UserError when there is none."""
        if ":" in name:
            return self._at(name, where=f"{self.noun}.{self.field}={name}")
        entries = _entries(self)
        if name in self.ours():
            return self.ours()[name]
        if name in entries:
            return self._entered(entries[name])
        close = difflib.get_close_matches(name, self.names(), n=1, cutoff=0.6)
        raise UserError(
            f"there is no {self.noun} {name!r}" + (f" (did you mean {close[0]}?)" if close else ""),
            where=f"{self.noun}.{self.field}",
            remedy=f"choose one of {', '.join(self.names())}; or give the path of your own class, package.module:Class",
        )

    def read(self, value: object) -> Model:
        """A mapping as an instance of the class that it names; an instance stays as it is.

        Raises UserError for a name without a class, ValidationError (with the nearest setting) for wrong settings.
        """
        if isinstance(value, self.base):
            return value
        name = value.get(self.field) if isinstance(value, Mapping) else None
        if not isinstance(name, str):
            raise ValueError(f"{self.field} is missing; choose one of {', '.join(self.names())}")
        model = self.find(name)
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise _with_hints(error, model) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    def name_of(self, model: type[Model]) -> str:
        """The name that a class goes by. Raises UserError for a class that has none."""
        field = model.model_fields.get(self.field)
        if field is None or not isinstance(field.default, str):
            raise UserError(
                f"the {self.noun} {model.__qualname__} has no name",
                where=model.__module__,
                remedy=f'give the class a field with its name as default: {self.field}: str = "my-{self.noun}"',
            )
        return field.default

    def _entered(self, entry: EntryPoint) -> type[Model]:
        where = f"entry point {entry.name} = {entry.value} of {self.group}"
        model = self._at(entry.value, where=where)
        if self.name_of(model) != entry.name:
            raise UserError(
                f"the entry point is called {entry.name!r}, its {self.noun} {self.name_of(model)!r}",
                where=where,
                remedy="give both the same name",
            )
        return model

    def _at(self, path: str, *, where: str) -> type[Model]:
        """The class at `module:Class`; it must be complete, and of this family."""
        module, _, attribute = path.partition(":")
        try:
            value = getattr(import_module(module), attribute)
        except (ImportError, ValueError) as error:  # ValueError: an empty or relative module
            raise UserError(
                f"the module {module!r} of the {self.noun} cannot be imported: {error}",
                where=where,
                remedy="check the spelling, and that the package is installed in this environment or lies in a folder "
                "on PYTHONPATH",
            ) from error
        except AttributeError:
            raise UserError(
                f"the module {module} has no {attribute or 'class named after the colon'}",
                where=where,
                remedy=f"write module:Class, with the name of a class that {module} defines",
            ) from None
        if not (inspect.isclass(value) and issubclass(value, self.base)):
            raise UserError(
                f"{path} is no {self.noun}",
                where=where,
                remedy=f"name a class that derives from {_path(self.base)}",
            )
        if inspect.isabstract(value):
            missing = ", ".join(sorted(value.__abstractmethods__))
            raise UserError(
                f"the {self.noun} {path} is incomplete: it does not define {missing}",
                where=where,
                remedy=f"define {missing} in {value.__qualname__}",
            )
        self.name_of(value)
        return value


@cache
def _scan(family: Family[Model]) -> dict[str, type[Model]]:
    package = import_module(family.package)
    classes: dict[str, type[Model]] = {}
    for info in iter_modules(package.__path__, prefix=f"{family.package}."):
        module = import_module(info.name)
        for value in vars(module).values():
            if not (inspect.isclass(value) and issubclass(value, family.base) and value.__module__ == info.name):
                continue
            if inspect.isabstract(value):
                continue
            name = family.name_of(value)
            if name in classes:
                raise _twice(family, name, inspect.getfile(classes[name]), inspect.getfile(value))
            classes[name] = value
    return classes


@cache
def _entries(family: Family[Model]) -> dict[str, EntryPoint]:
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=family.group):
        if entry.name in entries and entries[entry.name].value != entry.value:
            raise _twice(family, entry.name, _origin(entries[entry.name]), _origin(entry))
        if entry.name in family.ours():
            raise _twice(family, entry.name, inspect.getfile(family.ours()[entry.name]), _origin(entry))
        entries[entry.name] = entry
    return entries


def _twice(family: Family[Model], name: str, first: str, second: str) -> UserError:
    return UserError(
        f"two {family.noun}s are called {name!r}", where=f"{first} and {second}", remedy="rename one of the two"
    )


def _origin(entry: EntryPoint) -> str:
    """The file that an entry point names, if it can be found, and its text."""
    try:
        spec = find_spec(entry.module)
    except (ImportError, ValueError):
        spec = None
    text = f"entry point {entry.name} = {entry.value}"
    return f"{spec.origin} ({text})" if spec and spec.origin else text


def _path(model: type[BaseModel]) -> str:
    return f"{model.__module__}:{model.__qualname__}"


def _with_hints(error: ValidationError, model: type[BaseModel]) -> ValidationError:
    """The same errors; where a setting is unknown, with the model's nearest one."""
    details: list[InitErrorDetails] = []
    for item in error.errors():
        kind: str | PydanticCustomError = item["type"]
        if item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
            kind = _unknown(str(item["loc"][0]), model)
        details.append(InitErrorDetails(type=kind, loc=item["loc"], input=item["input"], ctx=item.get("ctx", {})))
    return ValidationError.from_exception_data(error.title, details)


def _unknown(key: str, model: type[BaseModel]) -> PydanticCustomError:
    close = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(model.model_fields)}"
    text = f"{model.__qualname__} has no such setting; {hint}"
    return PydanticCustomError("unknown_setting", "{text}", {"text": text})
