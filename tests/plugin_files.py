"""A user's package, as tests write it: importable modules, and the entry points of an installed distribution."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import plugins


class PluginFiles:
    """Writes files below a folder on sys.path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, path: str, text: str) -> Path:
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def entry_point(self, group: str, line: str) -> None:
        """Make the folder an installed distribution with the entry point `line` in `group`."""
        self.write("theirs-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        self.write("theirs-1.0.dist-info/entry_points.txt", f"[{group}]\n{line}\n")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginFiles]:
    """A user's package on sys.path. Its modules and entry points are forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._entries.cache_clear()
    yield PluginFiles(tmp_path)
    plugins._entries.cache_clear()
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
