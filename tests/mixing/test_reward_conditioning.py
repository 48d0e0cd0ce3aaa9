"""Reward-conditioned relabelling: the goals of a pair, the relabelled prompts, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from conf.compose import compose_config
from storage.errors import UserError
from storage.schemas import PREFERENCES, SCORES, read_parquet, table, write_parquet
from tasks.mixing.reward_conditioning import RewardConditioningSettings, goals_of_pair, on_scale, relabel
from tasks.mixing.settings import MixingSettings
from tasks.mixing.stage import MixSpec, run_mix
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import load_tokenizer
from tests.mixing.test_mixing import preferences

SETTINGS = RewardConditioningSettings(annotator="judge", text="goal {score}", scale="as_given")


def test_a_pair_with_scores_8_and_3_is_two_records() -> None:
    assert goals_of_pair(8, 3) == [(8, False), (3, True)]
    assert goals_of_pair(3, 8) == goals_of_pair(5, 5) == goals_of_pair(float("nan"), 3) == []
    assert (SETTINGS.goal(8.0), SETTINGS.goal(2.5), SETTINGS.highest) == ("goal 8", "goal 2.5", "goal 10")


def test_deciles() -> None:
    goals = on_scale(np.array([*np.arange(20) / 7, np.nan]), "deciles")
    assert goals[:-1].tolist() == [1 + i // 2 for i in range(20)]
    assert np.isnan(goals[-1])


def scores(number: int, values: dict[tuple[str, int], float]) -> dict[int, pa.Table]:
    rows = [
        {"prompt_id": prompt, "source": "policy", "response_index": i, "annotator": name, "outcome": "score"}
        | {"score": value if name == "judge" else -value}
        for (prompt, i), value in values.items()
        for name in ("other", "judge")
    ]
    return {number: table(rows, SCORES)}


def with_system(path: Path, number: int, system: str = "goal 10") -> pa.Table:
    """One pair of each of three prompts, that begin with a goal."""
    rows = read_parquet(preferences(path, number, 3, 1), PREFERENCES).to_pylist()
    for row in rows:
        row["prompt"] = [{"role": "system", "content": system}, *row["prompt"]]
        row |= {"chosen_ids": [1, 2], "rejected_ids": [3], "votes_chosen": 5.0, "votes_rejected": 2.0}
        row["rejected_finish_reason"] = "length"
    return pa.Table.from_pylist(rows, schema=PREFERENCES)


def test_each_record_has_its_goal_and_the_second_is_turned_round(tmp_path: Path, tiny_policy: Path) -> None:
    pairs, tokenizer = with_system(tmp_path / "p.parquet", 2), load_tokenizer(tiny_policy)
    known = scores(2, {("p0", 0): 8, ("p0", 1): 3, ("p1", 0): 3, ("p1", 1): 8, ("p2", 0): 5})
    relabelled, left_out = relabel(pairs, known, SETTINGS, tokenizer)
    assert (relabelled.schema, left_out) == (PREFERENCES, 2)
    first, second = relabelled.to_pylist()
    old = pairs.to_pylist()[0]
    for row, goal in ((first, "goal 8"), (second, "goal 3")):
        assert row["prompt"] == [{"role": "system", "content": goal}, *old["prompt"][1:]]
        assert row["prompt_ids"] == encode_chat(tokenizer, row["prompt"])
        assert (row["target"], row["p_hat"], row["round"]) == (old["target"], old["p_hat"], 2)
    assert (first["prompt_id"], second["prompt_id"]) == ("p0@8", "p0@3")
    changed = {name for name in old if first[name] != old[name]}
    assert changed == {"prompt", "prompt_id", "prompt_ids"}
    for chosen, rejected in (
        ("chosen", "rejected"), ("chosen_ids", "rejected_ids"), ("chosen_index", "rejected_index"),
        ("votes_chosen", "votes_rejected"), ("chosen_finish_reason", "rejected_finish_reason"),
    ):  # fmt: skip
        assert (second[chosen], second[rejected]) == (old[rejected], old[chosen])


def test_what_cannot_be_relabelled_is_refused(tmp_path: Path, tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    known = scores(1, {("p0", 0): 8, ("p0", 1): 3})
    with pytest.raises(UserError, match="does not start with the goal"):
        relabel(with_system(tmp_path / "a.parquet", 1, "be kind"), known, SETTINGS, tokenizer)
    with pytest.raises(UserError, match="higher score of judge"):
        relabel(with_system(tmp_path / "b.parquet", 2), known, SETTINGS, tokenizer)


def test_the_mix_stage_relabels_each_round_by_its_own_scores(tmp_path: Path, tiny_policy: Path) -> None:
    paths = {}
    for number, best in ((1, 4.0), (2, 9.0)):
        write_parquet(tmp_path / f"pairs-{number}.parquet", with_system(tmp_path / f"{number}.parquet", number))
        paths[number] = tmp_path / f"scores-{number}.parquet"
        values = {(f"p{i}", k): best - k for i in range(3) for k in range(2)}
        write_parquet(paths[number], scores(number, values)[number])
    spec = MixSpec(
        folder=tmp_path / "mix", round=2, seed=0, own=tmp_path / "pairs-2.parquet",
        settings=MixingSettings(goals=SETTINGS, replay="all"), earlier=[tmp_path / "pairs-1.parquet"],
        policy=tiny_policy, scores=paths,
    )  # fmt: skip
    manifest = run_mix(spec)
    assert manifest.summary == {"pairs_by_round": {"2": 6, "1": 6}, "left_out": 0}
    mixed = read_parquet(spec.folder / "preferences.parquet", PREFERENCES)
    goals = {(row["round"], row["prompt"][0]["content"]) for row in mixed.to_pylist()}
    assert goals == {(2, "goal 9"), (2, "goal 8"), (1, "goal 4"), (1, "goal 3")}


def refused(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        compose_config(["run=demo", *words])
    return str(caught.value)


def test_wrong_pairings_are_refused_when_the_configuration_is_read() -> None:
    recipe = ["recipe=conditioned", "mixing.goals.annotator=concision"]
    config = compose_config(["run=demo", *recipe])
    assert config.mixing.goals is not None
    assert config.prompts.system == config.mixing.goals.highest
    assert "person gives no scores" in refused("recipe=conditioned", "mixing.goals.annotator=person")
    assert "prompts.system=" in refused(*recipe, "prompts.system=null")
    assert "use an objective on pairs" in refused(*recipe, "objective=sppo")
    assert "use an objective on pairs" in refused(*recipe, "objective=adpo")
    assert "pairs of an offline set do not have" in refused(*recipe, "mixing.offline={path: x, share: 0.5}")
    assert "{score}" in refused(*recipe, "mixing.goals.text=ten")
