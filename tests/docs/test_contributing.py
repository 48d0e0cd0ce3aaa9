"""CONTRIBUTING.md: the ten walks are there, each with a test and a command, and every path that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKS = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
TOP = "flows|tasks|storage|conf|tests|examples|benchmarks|docs"
#: `folder/file` in backticks, words of commands, and targets of links.
PATHS = re.compile(rf"(?<=[`( ])((?:{TOP})/[\w/.-]*)")


def test_every_path_exists() -> None:
    paths = {path.rstrip(".") for path in PATHS.findall(PAGE)}
    assert len(paths) > 40
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_a_file_named_as_model_is_in_the_folder_before_it() -> None:
    """`folder/` gets a file such as `name.py`."""
    pairs = re.findall(rf"`((?:{TOP})/[\w/]+/)` gets a file such as `(\w+\.py)`", PAGE)
    assert len(pairs) >= 5
    assert [folder + name for folder, name in pairs if not (ROOT / folder / name).is_file()] == []


def test_there_are_ten_walks_with_a_test_and_a_command() -> None:
    assert [walk.split(".")[0] for walk in WALKS] == [str(number) for number in range(1, 11)]
    for walk in WALKS:
        assert re.search(r"Test: .*`tests/", walk), walk
        assert "    .venv/bin/python -m pytest tests/" in walk, walk
