"""Goals by class (C-RLFT): the preferred side of a pair asks for 10, the other for 1; ties are left out."""

from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from conf.compose import compose_config
from storage.schemas import PREFERENCES
from tasks.mixing.reward_conditioning import RewardConditioningSettings, relabel
from tasks.modeling.load import load_tokenizer
from tests.mixing.test_reward_conditioning import with_system

CLASSES = RewardConditioningSettings(text="goal {score}", scale="classes")


def test_both_sides_of_a_pair_are_records_of_their_class(tmp_path: Path, tiny_policy: Path) -> None:
    rows = with_system(tmp_path / "p.parquet", 1).to_pylist()
    rows[1]["target"] = 0.0
    pairs = pa.Table.from_pylist(rows, schema=PREFERENCES)
    relabelled, left_out = relabel(pairs, {}, CLASSES, load_tokenizer(tiny_policy))
    made = relabelled.to_pylist()
    assert left_out == 1
    assert [row["prompt_id"] for row in made] == ["p0@10", "p0@1", "p2@10", "p2@1"]
    assert [row["chosen_ids"] for row in made[:2]] == [rows[0]["chosen_ids"], rows[0]["rejected_ids"]]
    assert [row["prompt"][0]["content"] for row in made[:2]] == ["goal 10", "goal 1"]


def test_a_source_of_goals_is_named_once() -> None:
    for wrong in ({"scale": "deciles"}, {"scale": "classes", "annotator": "judge"}):
        with pytest.raises(ValidationError, match="set annotator=<name> or scale=classes"):
            RewardConditioningSettings.model_validate(wrong)


def test_the_recipe_chooses_objective_pairs_and_prompt() -> None:
    config = compose_config(["recipe=c-rlft", "policy=policy", "prompts=prompts.jsonl", "panel=rules"])
    assert (config.objective.name, config.preferences.pairs) == ("c-rlft", "best_worst")
    assert config.mixing.goals is not None
    assert config.prompts.system == config.mixing.goals.highest
