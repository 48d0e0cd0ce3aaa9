"""Find a class by the name of its kind: ours in a package, users' by dotted path or entry point.

    kind: vllm                          the module `vllm` of our package
    kind: my_package.my_module:MyClass  any module that Python can import
    kind: mine                          an installed package with an entry point `mine`

Modules are imported only when their kind is asked for.
"""

import difflib
import pkgutil
from importlib import import_module
from importlib.metadata import entry_points
from typing import TypeVar

T = TypeVar("T")


def plugin_kinds(package: str, group: str) -> list[str]:
    """Names that `load_plugin` knows, sorted: the modules of `package` and the entry points of `group`."""
    return sorted(_modules(package) | {entry.name for entry in entry_points(group=group)})


def load_plugin(kind: str, base: type[T], *, package: str, group: str) -> type[T]:
    """The subclass of `base` that `kind` names.

    A module of `package` must define exactly one subclass of `base`. Raises ValueError, for use in pydantic validators,
    when there is no such kind, it cannot be imported, or it is not a subclass of `base`.
    """
    if ":" in kind:
        loaded = _import(kind)
    elif kind in _modules(package):
        loaded = _only_subclass(f"{package}.{kind}", base)
    else:
        entries = {entry.name: entry.value for entry in entry_points(group=group)}
        if kind not in entries:
            raise ValueError(_unknown(kind, plugin_kinds(package, group)))
        loaded = _import(entries[kind])
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise ValueError(f"{kind} is not a subclass of {base.__module__}.{base.__qualname__}")
    return loaded


def _modules(package: str) -> set[str]:
    modules = pkgutil.iter_modules(import_module(package).__path__)
    return {module.name for module in modules if not module.name.startswith("_")}


def _import(path: str) -> object:
    module_name, _, attribute = path.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"cannot import {module_name}: {error}; install its package, or put its folder on PYTHONPATH"
        ) from None
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ValueError(f"{module_name} has no {attribute!r}") from None


def _only_subclass(module_name: str, base: type[T]) -> type[T]:
    module = import_module(module_name)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module_name
    ]
    if len(classes) != 1:
        raise ValueError(f"{module_name} must define one subclass of {base.__qualname__}, and defines {len(classes)}")
    return classes[0]


def _unknown(kind: str, kinds: list[str]) -> str:
    close = difflib.get_close_matches(kind, kinds, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"there is no kind {kind!r}{hint}; choose {', '.join(kinds)}, or name a class: my_package.my_module:MyClass"
