"""The examples: each is listed, and the flow accepts the words of its commands."""

import re
import shlex
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from conf.compose import PROJECT
from flows.parameters import Override

EXAMPLES = sorted(path.parent for path in PROJECT.glob("examples/*/README.md"))


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_the_overview_lists_it(folder: Path) -> None:
    overview = (PROJECT / "examples/README.md").read_text(encoding="utf-8")
    assert f"]({folder.name}/README.md)" in overview


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_the_flow_accepts_its_words(folder: Path) -> None:
    """Prefect checks the words again, against this type, when the flow starts."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    \S+ -m flows\.iterate (.*)$", text, re.MULTILINE)
    for command in commands:
        TypeAdapter(list[Override]).validate_python(shlex.split(command))
