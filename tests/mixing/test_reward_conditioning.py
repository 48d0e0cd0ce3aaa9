"""Reward-conditioned relabelling: the records of a pair, their goals and prompts, and what is refused."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from conf.compose import compose_config
from storage.errors import UserError
from storage.schemas import PREFERENCES, SCORES, read_parquet, table, write_parquet
from tasks.mixing.reward_conditioning import GoalSettings, on_scale, records, relabel
from tasks.mixing.stage import MixingSettings, MixSpec, run_mix
from tasks.modeling.load import encode_chat, load_tokenizer
from tests.mixing.test_mixing import preferences

SETTINGS = GoalSettings(annotator="judge", text="goal {score}", scale="as_given")


def test_a_pair_with_scores_8_and_3_is_two_records() -> None:
    assert records(8, 3) == [(8, False), (3, True)]
    assert records(3, 8) == records(5, 5) == records(float("nan"), 3) == []
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


def asked(path, number: int, system: str = "goal 10") -> pa.Table:
    """One pair of each of three prompts, that begin with a goal."""
    rows = read_parquet(preferences(path, number, 3, 1), PREFERENCES).to_pylist()
    for row in rows:
        row["prompt"] = [{"role": "system", "content": system}, *row["prompt"]]
        row |= {"chosen_ids": [1, 2], "rejected_ids": [3], "votes_chosen": 5.0, "votes_rejected": 2.0}
        row["rejected_finish_reason"] = "length"
    return pa.Table.from_pylist(rows, schema=PREFERENCES)


def test_each_record_has_its_goal_and_the_second_is_turned_round(tmp_path, tiny_policy) -> None:
    pairs, tokenizer = asked(tmp_path / "p.parquet", 2), load_tokenizer(tiny_policy)
    given = scores(2, {("p0", 0): 8, ("p0", 1): 3, ("p1", 0): 3, ("p1", 1): 8, ("p2", 0): 5})
    made, left_out = relabel(pairs, given, SETTINGS, tokenizer)
    assert (made.schema, left_out) == (PREFERENCES, 2)
    first, second = made.to_pylist()
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


def test_what_cannot_be_relabelled_is_refused(tmp_path, tiny_policy) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    given = scores(1, {("p0", 0): 8, ("p0", 1): 3})
    with pytest.raises(UserError, match="does not begin with the goal"):
        relabel(asked(tmp_path / "a.parquet", 1, "be kind"), given, SETTINGS, tokenizer)
    with pytest.raises(UserError, match="no pair has scores of judge"):
        relabel(asked(tmp_path / "b.parquet", 2), given, SETTINGS, tokenizer)


def test_the_mix_stage_relabels_each_round_by_its_own_scores(tmp_path, tiny_policy) -> None:
    paths = {}
    for number, best in ((1, 4.0), (2, 9.0)):
        write_parquet(tmp_path / f"pairs-{number}.parquet", asked(tmp_path / f"{number}.parquet", number))
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


def refused(*words: str) -> Any:
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
