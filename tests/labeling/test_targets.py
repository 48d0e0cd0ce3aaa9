"""How much a round's targets say: counted, told, and prompts that teach nothing left out on request."""

import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import UserError
from tasks.labeling.margin_filter import keep_informative
from tasks.labeling.stage import run
from tasks.labeling.summary import LabelSummary, Targets
from tests.panel.conftest import World

QUALITY = {"kind": "function", "function": "voters:quality"}
#: Responses by prompt; `q` and a number is their quality. p: one of three differs; q and r: all are equal.
TEXTS = {"p": ["q1 a", "q1 b", "q2 c"], "q": ["q1 d", "q1 e", "q1 f"], "r": ["q3 g", "q3 h", "q3 i"]}


def test_counts_of_a_stage(world: World, caplog: pytest.LogCaptureFixture) -> None:
    spec = world.spec(TEXTS, {"quality": QUALITY})
    with caplog.at_level(logging.INFO, "irepo"):
        manifest = run(spec)
    targets = LabelSummary.model_validate(manifest.summary).targets
    assert targets == Targets(pairs=9, zero=7, prompts=3, informative=1)
    assert "78 % of targets are 0; 2 of 3 prompts teach nothing" in caplog.text
    assert [record.levelname for record in caplog.records if "teach nothing" in record.message] == ["WARNING"]


def test_informative_prompts_keep_their_ties(world: World) -> None:
    spec = world.spec(TEXTS, {"quality": QUALITY}, preferences={"keep": "informative"})
    manifest = run(spec)
    rows = pq.read_table(spec.folder / "preferences.parquet").to_pylist()
    assert {row["prompt_id"] for row in rows} == {next(iter({row["prompt_id"] for row in rows}))}
    assert sorted(row["target"] > 0 for row in rows) == [False, True, True]
    assert manifest.summary["dropped"] == {"uninformative": 6}
    assert manifest.summary["targets"] == {"pairs": 3, "zero": 1, "prompts": 3, "informative": 1}


def test_nothing_informative_is_an_error_with_a_remedy(world: World) -> None:
    spec = world.spec({"q": TEXTS["q"]}, {"quality": QUALITY}, preferences={"keep": "informative"})
    with pytest.raises(UserError, match="no preference pair is left") as refused:
        run(spec)
    assert "equally good" in refused.value.remedy


def test_order_is_kept() -> None:
    rows = pa.table({"prompt_id": ["a", "b", "b", "c", "a"], "target": [0.0, 0.0, 1.5, 0.0, 0.0], "at": range(5)})
    kept, left_out = keep_informative(rows)
    assert (kept["at"].to_pylist(), left_out) == ([1, 2], 3)


@pytest.mark.parametrize(("zero", "informative", "level"), [(4, 6, "INFO"), (5, 9, "WARNING"), (1, 5, "WARNING")])
def test_half_of_either_is_a_warning(zero: int, informative: int, level: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "irepo"):
        Targets(pairs=10, zero=zero, prompts=10, informative=informative).report()
    assert [record.levelname for record in caplog.records] == [level]
