"""The samples that a run prints: a reply is shown from its beginning, a prompt to its end, and a cut is marked."""

import io
import json
from pathlib import Path

from rich.console import Console

from flows.show.terminal import samples_table


def _samples(folder: Path, prompt: str, reply: str) -> Path:
    folder.mkdir()
    (folder / "samples.json").write_text(json.dumps([{"prompt": prompt, "reply": reply}]), encoding="utf-8")
    return folder


def _printed(first: Path, last: Path) -> str:
    console = Console(width=4000, record=True, file=io.StringIO())
    console.print(samples_table(first, last))
    return console.export_text()


def test_a_long_reply_is_shown_from_its_beginning_and_a_long_prompt_to_its_end(tmp_path: Path) -> None:
    prompt = "Read this first. " + "word " * 100 + "What is milk?"
    reply = "Milk is made of water, fat and protein. " + "more " * 100 + "The end."
    printed = _printed(_samples(tmp_path / "old", prompt, reply), _samples(tmp_path / "new", prompt, "Milk."))
    assert "Milk is made of water" in printed
    assert "The end." not in printed
    assert "What is milk?" in printed
    assert "Read this first." not in printed
    assert printed.count("…") == 2


def test_short_texts_are_whole(tmp_path: Path) -> None:
    printed = _printed(_samples(tmp_path / "old", "Why?", "No."), _samples(tmp_path / "new", "Why?", "Yes."))
    assert "…" not in printed
    assert "Why?" in printed
