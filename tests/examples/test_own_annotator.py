"""examples/annotator: a user's own annotator votes in the label stage, without a change to the project's files."""

import shlex
import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import yaml

from conf.compose import PROJECT, compose_config
from storage.stage import load_spec
from tasks.labeling.settings import LabelSettings, LabelSpec
from tasks.labeling.stage import run
from tasks.panel.settings import PanelSettings
from tests.panel.conftest import World, world

__all__ = ["world"]

EXAMPLE = PROJECT / "examples/annotator"
PANEL = yaml.safe_load((EXAMPLE / "tone.yaml").read_text(encoding="utf-8"))["annotators"]
TEXTS = {"p": ["Whatever. It is 9.", "It is 9.", "Ugh, fine. Obviously. It is 9."], "q": ["blue", ""]}


def test_it_votes_in_the_label_stage(world: World) -> None:
    spec = world.spec(TEXTS, PANEL)
    run(spec)
    rows = pq.read_table(spec.folder / "votes.parquet").to_pylist()
    votes = {
        (row["prompt_id"], row["index_a"], row["index_b"]): row["outcome"] for row in rows if row["annotator"] == "tone"
    }
    # Rude phrases: 1, 0 and 2 for prompt p.
    assert votes == {("p", 0, 1): "b", ("p", 0, 2): "a", ("p", 1, 2): "a", ("q", 0, 1): "abstain"}
    assert Counter(row["annotator"] for row in rows) == {"tone": 4, "mentions": 4, "concision": 4}


def test_its_spec_can_be_read_again(world: World) -> None:
    spec = world.spec(TEXTS, PANEL)
    spec.save(spec.folder / "spec.yaml")
    again = load_spec(spec.folder / "spec.yaml", LabelSpec)
    assert again == spec
    assert again.key() == spec.key()


def test_its_source_decides_its_votes() -> None:
    tone = LabelSettings.model_validate({"annotators": PANEL}).annotators["tone"]
    assert tone.reads() == ["examples.annotator.tone:ToneSettings"]


def test_the_panel_composes() -> None:
    assert list(PanelSettings.model_validate({"annotators": PANEL}).annotators) == ["tone", "mentions", "concision"]
    tone = PANEL["tone"]["kind"]
    config = compose_config(["run=demo", f"+panel.annotators.tone={{kind: '{tone}'}}"])
    assert config.panel.annotators["tone"] == PanelSettings.model_validate({"annotators": PANEL}).annotators["tone"]


def test_the_command_prints_the_table_of_the_readme() -> None:
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    (command,) = [line.strip() for line in readme.splitlines() if "--data" in line]
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    table = readme.split("```")[1].strip().splitlines()
    assert [line.rstrip() for line in done.stdout.splitlines()][: len(table)] == table
