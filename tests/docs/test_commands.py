"""Every command in the pages exists and is run by a test, or docs/commands.md says that it is not."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from conf.compose import compose_config
from conf.schema import RunConfig
from flows.train_words import train_words
from tests.docs.page_commands import ROOT, Command, module_commands, named_modules, named_targets, word_lines

TABLE = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
OURS = ("flows.", "tasks.", "storage.", "benchmarks.", "tests.")
COMPARE = ("methods=", "seeds=", "name=")


def source(module: str) -> Path:
    """The file that `python -m` runs, or the folder of a package without __main__."""
    path = ROOT / module.replace(".", "/")
    return next(file for file in (path.with_suffix(".py"), path / "__main__.py", path) if file.exists())


def listed(kind: str) -> set[str]:
    """Names in the first column of the tables."""
    cells = [line.split("|")[1] for line in TABLE.splitlines() if line.startswith("| `")]
    names = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    makes = {name.removeprefix("make ") for name in names if name.startswith("make ")}
    return makes if kind == "make" else {name for name in names if not name.startswith("make ")}


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_every_module_exists_and_is_listed() -> None:
    names = named_modules()
    assert len(names) > 30
    for name, page in names.items():
        assert name in listed("module"), f"{page}: {name} is not in docs/commands.md"
        if name.startswith(OURS):
            assert source(name).exists(), f"{page}: {name}"


def test_every_target_exists_and_is_listed() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
    for name, page in named_targets().items():
        assert name in targets, f"{page}: make {name}"
        assert name in listed("make"), f"{page}: make {name} is not in docs/commands.md"


def test_the_tests_that_the_table_names_exist() -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith("| `")]
    for row in rows:
        run_by = row.split("|")[2]
        paths = re.findall(r"`(tests/[\w/.]+)`", run_by)
        assert paths or re.search(r"not run|every test|CI", run_by), row
        assert [path for path in paths if not (ROOT / path).exists()] == [], row


def test_every_option_is_one_of_its_module() -> None:
    for command in module_commands():
        if not command.module.startswith(OURS):
            continue
        file = source(command.module)
        texts = [each.read_text(encoding="utf-8") for each in (file.parent.glob("*.py") if file.parts else [])]
        for option in re.findall(r"(?<!\S)(--[a-z][a-z-]+)", command.words):
            assert any(f'"{option}"' in text for text in texts), f"{command.page}: {command.module} {option}"


FLOWS = ("flows.iterate", "flows.train", "flows.compare")
#: Of commands that need a package of the user's, or a file that the command before copies.
THEIRS = ("hinge-3", "my_package", "panel=tone", "run=mine")
COMPOSED = [
    command
    for command in module_commands()
    if command.module in FLOWS and not any(word in command.words for word in ("--help", *THEIRS))
]
WORD_LINES = [command for command in word_lines() if not any(word in command.words for word in THEIRS)]


@cache
def composed(*words: str) -> RunConfig:
    """Pages repeat commands."""
    return compose_config(words)


@pytest.mark.parametrize("command", COMPOSED, ids=lambda command: f"{command.page} {command.words[:60]}")
def test_the_words_of_a_flow_compose(command: Command) -> None:
    words = shlex.split(command.words)
    if command.module == "flows.train":
        composed(*train_words(words))
    elif command.module == "flows.compare":
        methods = next(word for word in words if word.startswith("methods=")).removeprefix("methods=")
        rest = [word for word in words if not word.startswith(COMPARE)]
        for method in methods.strip("[]").split(","):
            name, *overrides = method.split()
            composed(*rest, f"objective={name}", *overrides)
    else:
        composed(*(words if any(word.startswith("run=") for word in words) else with_base(words)))


@pytest.mark.parametrize("command", WORD_LINES, ids=lambda command: f"{command.page} {command.words[:60]}")
def test_a_line_of_words_composes(command: Command) -> None:
    """Words with the same key are alternatives: each composes with the others."""
    words = shlex.split(command.words)
    words += ["harness=leaderboard-v1"] if "kind: harness" in command.words else []
    keys = [word.partition("=")[0] for word in words]
    alternatives = [word for word in words if keys.count(word.partition("=")[0]) > 1]
    others = [word for word in words if word not in alternatives]
    for word in alternatives or [""]:
        composed(*with_base([*others, *filter(None, [word])]))


def with_base(words: list[str]) -> list[str]:
    """The words with a policy and prompts, or with run=demo for an excerpt that names neither."""
    if any(word.startswith("run=") for word in words):
        return words
    given = {word.partition("=")[0] for word in words}
    return ([] if "policy" in given else ["policy=x"]) + ([] if "prompts" in given else ["prompts=y"]) + words
