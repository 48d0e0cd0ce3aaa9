"""Commands start without torch: what they import, directly or by other modules of ours, imports it only when used."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from conf.compose import PROJECT

HEAVY = {"torch", "transformers", "vllm", "peft", "accelerate", "datasets", "lm_eval"}
OURS = ("flows", "tasks", "storage", "conf")


def file_of(module: str) -> Path | None:
    path = PROJECT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run when a module is imported."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from at_import([*node.body, *node.orelse])
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from at_import(node.body)


@cache
def imports(module: str) -> frozenset[str]:
    """Modules that importing `module` of ours imports."""
    file = file_of(module)
    assert file is not None, module
    found: set[str] = set()
    for node in at_import(ast.parse(file.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            found |= {node.module} | {
                name for alias in node.names if file_of(name := f"{node.module}.{alias.name}") is not None
            }
    packages = {name.rsplit(".", depth)[0] for name in found for depth in range(1, name.count(".") + 1)}
    return frozenset(found | packages)


def way_to_heavy(start: str) -> list[str]:
    """The modules by which `start` imports a heavy library, the library last; [] where it does not."""
    came_from: dict[str, str | None] = {start: None}
    waiting = [start]
    while waiting:
        module = waiting.pop(0)
        for name in sorted(imports(module) - came_from.keys()):
            came_from[name] = module
            if name.partition(".")[0] in HEAVY:
                way: list[str] = []
                step: str | None = name
                while step is not None:
                    way.insert(0, step)
                    step = came_from[step]
                return way
            if name.partition(".")[0] in OURS and file_of(name) is not None:
                waiting.append(name)
    return []


@pytest.mark.parametrize(
    "command", ["flows.iterate", "flows.train", "flows.compare", "flows.serve", "flows.vote", "flows.gate", "tasks.run"]
)
def test_a_command_starts_without_torch(command: str) -> None:
    assert way_to_heavy(command) == []


def test_a_heavy_import_would_be_found() -> None:
    assert way_to_heavy("tasks.training.trainer")[-1].partition(".")[0] in HEAVY
