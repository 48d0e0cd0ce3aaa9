"""Offline training: a preference file becomes a round, held-out pairs train nothing, and mistakes are named at once."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conf.compose import compose_config
from flows.checks import prepare_run
from flows.plan import Plan
from flows.record import round_record
from flows.round import finished_record, play_round, play_start
from flows.stages import BareStages
from flows.train_words import train_words
from storage.errors import UserError
from storage.manifest import read_manifest
from tasks.evaluation.record import RoundRecord
from tests.flows.offline_set import offline_words, write_pairs


def play(words: list[str]) -> tuple[Plan, RoundRecord]:
    plan = prepare_run(compose_config(train_words(words)))
    play_start(BareStages(), plan)
    stages = BareStages()
    play_round(stages, plan, 1, [0])
    return plan, round_record(plan, 1, [0], stages.manifests)


def test_a_file_becomes_a_round(tiny_policy: Path, tmp_path: Path) -> None:
    words = offline_words(tiny_policy, write_pairs(tmp_path / "pairs.jsonl", 40), tmp_path, "prompts.heldout=0.3")
    plan, record = play(words)
    trained = pq.read_table(plan.folder(1, "pairs") / "preferences.parquet")
    held = pq.read_table(plan.folder(0, "evaluate/pairs") / "preferences.parquet")
    assert len(trained) + len(held) == 40
    assert held.num_rows >= 2
    assert not set(trained["prompt_id"].to_pylist()) & set(held["prompt_id"].to_pylist())
    assert trained["target"].to_pylist() == pytest.approx([math.log(9.0)] * len(trained))
    assert record.labels is None
    calibration = record.figures.calibration
    assert calibration is not None
    assert calibration.accuracy.n == held.num_rows
    assert set(record.seconds) == {"pairs", "train", "evaluate"}
    assert (plan.folder(1, "train") / "policy" / "model.safetensors").is_file()
    # Nothing is left to do, and every stage is found finished.
    times = {path: path.stat().st_mtime_ns for path in plan.layout.root.rglob("manifest.json")}
    plan, _ = play(words)
    assert {path: path.stat().st_mtime_ns for path in plan.layout.root.rglob("manifest.json")} == times
    assert finished_record(plan, 1, [_initial(plan)], check_files=True).digest == record.digest
    # Another file under the same name is another run.
    write_pairs(tmp_path / "pairs.jsonl", 41)
    with pytest.raises(UserError, match=r"input data: .*outside the run"):
        prepare_run(compose_config(train_words(words)))
    assert read_manifest(plan.layout.data).rows["pairs.parquet"] == 40


def _initial(plan: Plan) -> RoundRecord:
    stages = BareStages()
    play_start(stages, plan)
    return round_record(plan, 0, [0], stages.manifests)


def test_prompts_of_a_heldout_file_train_nothing(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pairs(tmp_path / "pairs.jsonl", 12)
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in (3, 5, 100)))
    words = offline_words(tiny_policy, data, tmp_path, f"prompts.heldout={heldout}")
    plan = prepare_run(compose_config(train_words(words)))
    shown = " ".join(capsys.readouterr().out.split())
    assert "preference set: 12 pairs read, 12 kept; 12 with neither p_hat nor scores: data.p_hat=0.9" in shown
    assert "3 held out; 2 held out by the file of held-out prompts" in shown
    play_start(BareStages(), plan)
    stages = BareStages()
    play_round(stages, plan, 1, [0])
    asked = [
        row[0]["content"]
        for row in pq.read_table(plan.folder(1, "pairs") / "preferences.parquet")["prompt"].to_pylist()
    ]
    assert sorted(asked) == sorted(f"Say {i}" for i in range(12) if i not in (3, 5))
    assert not plan.folder(0, "evaluate/pairs").exists()


def _refusal(tiny_policy: Path, tmp_path: Path, row: dict[str, Any], *more: str) -> UserError:
    data = write_pairs(tmp_path / "pairs.jsonl", 8)
    with data.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UserError) as caught:
        prepare_run(compose_config(train_words(offline_words(tiny_policy, data, tmp_path, *more))))
    return caught.value


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "Ask?", "chosen": "yes"}, "no rejected"),
        ({"prompt": "Ask?", "chosen": "yes " * 300, "rejected": "no"}, "tokens, and the policy's context has 256"),
        ({"prompt": "Ask?", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2}, "prefer the rej"),
        ({"prompt": "Ask?", "chosen": "a", "rejected": "b", "images": ["x"]}, "the row has images"),
    ],
)
def test_a_faulty_row_is_named_before_anything_is_sampled(
    row: dict[str, Any], what: str, tiny_policy: Path, tmp_path: Path
) -> None:
    error = _refusal(tiny_policy, tmp_path, row)
    assert what in error.what
    assert error.where == f"{tmp_path / 'pairs.jsonl'}:9"
    assert error.remedy
    assert not (tmp_path / "runs" / "offline" / "data" / "manifest.json").exists()


def test_pairs_that_are_too_long_can_be_dropped(tiny_policy: Path, tmp_path: Path) -> None:
    rows = write_pairs(tmp_path / "pairs.jsonl", 8)
    with rows.open("a") as file:
        file.write(json.dumps({"prompt": "Ask?", "chosen": "yes " * 300, "rejected": "no"}) + "\n")
    words = offline_words(tiny_policy, rows, tmp_path, "data.too_long=drop", "prompts.heldout=0.4")
    plan = prepare_run(compose_config(train_words(words)))
    assert read_manifest(plan.layout.data).summary["dropped_too_long"] == 1


@pytest.mark.parametrize(
    ("words", "what", "remedy"),
    [
        (["policy=p"], "no preference set is named", "data=<file"),
        (["policy=p", "data=d", "rounds=2"], "train one round", "correct it"),
        (["policy=p", "data=d", "panel=rules"], "set panel=none", "correct it"),
        (["policy=p", "data=d", "objective=sppo"], "reads votes, which pairs of an offline set do not have", "correct"),
        (["policy=p", "data=d", "prompts.per_round=4"], "data.limit reads less", "correct it"),
        (["policy=p", "data=d", "data.score_fields=[one]"], "name two fields", "correct it"),
        (["policy=p", "data=d", "data.pad=1"], "did you mean data.path, which is", ""),
        (["policy=p", "data=d", "objective=dppo"], "there is no objective=dppo", "dpo"),
        (["model_name_or_path=p", "data=d"], "an argument of TRL", "policy=<folder or id>"),
        (["--learning_rate", "data=d"], "an argument of TRL", "training.learning_rate="),
        (["--lr=3", "data=d"], "not a word of the form key=value", "--help"),
    ],
)
def test_words_that_do_not_fit_are_refused_with_the_right_ones(words: list[str], what: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config(train_words(words))
    assert what in caught.value.what
    assert remedy in caught.value.remedy


def test_a_preset_keeps_its_evaluation(tmp_path: Path) -> None:
    config = compose_config(train_words(["run=demo", "data=d.jsonl", "name=mine"]))
    assert set(config.evaluation.judges) == {"truth", "held-out"}
    assert (config.rounds, config.panel.annotators, config.prompts.path) == (1, {}, "runs/mine/data/prompts.parquet")
