"""The commands that pages show: of `python -m`, of make, and lines of words alone."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
#: What stands for something of the user's, and a value of the right form.
PLACEHOLDERS = {
    "<url>": "http://127.0.0.1:8000/v1", "<panel>": "answers", "<name>": "name", "<run folder>": "runs/mine",
}  # fmt: skip
_MODULE = re.compile(r"^(?:\$ )?(?:\S*python) -m (\S+)(.*)$")
_INLINE = re.compile(r"`(?:\.venv/bin/)?python -m ([\w.]+)")
_MAKE = re.compile(r"(?:^    |`)make ([a-z0-9-]+)", re.MULTILINE)
_WORD = re.compile(r"""^['"]?[+~]*[a-z_][\w.-]*=""")


class Command(NamedTuple):
    page: str
    module: str
    words: str


def blocks(page: Path) -> Iterator[str]:
    """Lines of indented blocks; one that ends with a backslash goes on in the next."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        if line.startswith("    ") and line[4:5].strip():
            yield re.sub(r"\s+# .*$", "", line.strip())


def filled(words: str) -> str:
    """Placeholders as values."""
    for placeholder, value in PLACEHOLDERS.items():
        words = words.replace(placeholder, value)
    return re.sub(r"<[^<>]*>", "some/where", words)


def module_commands() -> list[Command]:
    found = []
    for page in PAGES:
        for line in blocks(page):
            if match := _MODULE.match(line):
                found.append(Command(page.relative_to(ROOT).as_posix(), match[1], filled(match[2]).strip()))
    return found


def word_lines() -> list[Command]:
    """Lines that are words of a run and nothing else."""
    found = []
    for page in PAGES:
        for line in blocks(page):
            if _WORD.match(line) and not line.startswith(("min-p", "squared-hinge", "kind:")) and " = " not in line:
                found.append(Command(page.relative_to(ROOT).as_posix(), "", filled(line)))
    return found


def named_modules() -> dict[str, str]:
    """Every module that a page names after `python -m`, in blocks and in running text, and one such page."""
    names = {command.module: command.page for command in module_commands()}
    for page in PAGES:
        names |= dict.fromkeys(_INLINE.findall(page.read_text(encoding="utf-8")), page.name)
    return names


def named_targets() -> dict[str, str]:
    """Every make target that a page names, and one such page."""
    return {name: page.name for page in PAGES for name in _MAKE.findall(page.read_text(encoding="utf-8"))}
