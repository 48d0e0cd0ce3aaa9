"""Recipes: two real rounds of each with the transformers engine, and what each leaves behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from conf.compose import compose_config, group_options
from flows.round import list_stages
from storage.errors import UserError
from storage.manifest import read_manifest
from tests.flows.test_iterate import command

RunRecipe = Callable[..., Path]


@pytest.fixture
def recipe(make_policy: Callable[..., Path], tmp_path: Path) -> RunRecipe:
    """Runs two rounds with the words given; returns the run folder."""

    def run(*more: str) -> Path:
        prompts = tmp_path / "prompts.jsonl"
        rows = [{"prompt": f"Say {i}", "answer": str(i), "reference": f"the number is {i}"} for i in range(24)]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = command([
            "name=small", f"runs={tmp_path / 'runs'}", f"policy={make_policy(seed=1)}", f"prompts={prompts}",
            "evaluation=plain", "engine=transformers", "training=small", "training.epochs=1",
            "training.learning_rate=1e-3", "sampling.max_tokens=10", "sampling.responses=4", "prompts.per_round=8",
            "prompts.heldout=0.2", "preferences.drop_truncated=false", "rounds=2", *more,
        ])  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path / "runs" / "small"

    return run


@pytest.fixture
def history(make_policy: Callable[..., Path], tmp_path: Path) -> list[str]:
    """Words: what the policy was aligned from, and the pairs that it was aligned on."""
    path = tmp_path / "offline.jsonl"
    rows = [{"prompt": f"Tell {i}", "chosen": f"it is {i}", "rejected": "x" * (i % 5 + 1)} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"policy.aligned_from={make_policy(seed=0)}", f"mixing.offline.path={path}"]


def rows(run: Path, number: int, stage: str, name: str) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(run / f"round-0{number}" / stage / f"{name}.parquet").to_pylist()
    return table


def summary(run: Path, number: int, stage: str) -> dict[str, Any]:
    return read_manifest(run / f"round-0{number}" / stage).summary


@pytest.mark.slow
def test_dice_judges_by_the_last_step_and_replays_the_offline_set(recipe: RunRecipe, history: list[str]) -> None:
    run = recipe("recipe=dice", *history, "sampling.responses=4")
    first, second = (read_manifest(run / f"round-0{n}" / "label") for n in (1, 2))
    assert first.inputs["policies:previous"] != first.inputs["policies:policy"]
    assert second.inputs["policies:previous"] == first.inputs["policies:policy"]
    for number in (1, 2):
        assert set(summary(run, number, "label")["votes"]["itself"]) <= {"a", "b", "tie"}
        assert summary(run, number, "label")["learnt"]["length_penalties"]["itself"] >= 0
        counts = summary(run, number, "mix")["pairs_by_round"]
        assert counts["offline"] == counts[str(number)]
        pairs = rows(run, number, "label", "preferences")
        assert len({row["prompt_id"] for row in pairs}) == len(pairs)  # best against worst


@pytest.mark.slow
def test_sera_chooses_among_its_own_pairs_and_among_offline_ones(recipe: RunRecipe, history: list[str]) -> None:
    run = recipe("recipe=sera-bootstrap", *history, "mixing.offline.keep.share=0.4")
    drawn = []
    for number in (1, 2):
        assert summary(run, number, "label")["dropped"]["margin"] > 0
        mixed = rows(run, number, "mix", "preferences")
        drawn.append({row["chosen"][0]["content"] for row in mixed if row["round"] == 0})
        assert 0 < len(drawn[-1]) <= 16
    assert (
        read_manifest(run / "round-02" / "mix").inputs["previous"]
        != (read_manifest(run / "round-02" / "mix").inputs["policy"])
    )


@pytest.mark.slow
def test_selection_by_sera_with_a_panel(recipe: RunRecipe) -> None:
    # Most votes of this panel on a random policy's responses are ties, of which hard labels would learn nothing.
    run = recipe("recipe=sera", "objective=irepo-small")
    pairs = summary(run, 2, "label")
    assert pairs["dropped"]["margin"] == pytest.approx(0.3 * (pairs["pairs"] + pairs["dropped"]["margin"]), abs=1)


@pytest.mark.slow
def test_conditioned_pairs_come_twice_and_the_policy_is_asked_for_ten(recipe: RunRecipe) -> None:
    run = recipe("recipe=conditioned", "panel=rules", "mixing.goals.annotator=concision")
    for number in (1, 2):
        plain, mixed = rows(run, number, "label", "preferences"), rows(run, number, "mix", "preferences")
        assert len(mixed) == 2 * (len(plain) - summary(run, number, "mix")["left_out"])
        assert {row["prompt"][0]["content"][-2:] for row in plain} == {"10"}
        assert len({row["prompt"][0]["content"] for row in mixed}) > 2
        trained = read_manifest(run / f"round-0{number}" / "train").rows
        assert trained["pairs"] + trained.get("tied_pairs", 0) == len(mixed)
    asked = pq.read_table(run / "prompts" / "heldout.parquet")["messages"][0].as_py()
    assert asked[0]["content"].endswith("this score: 10")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ladder", "sapo"])
def test_drafts_are_trained_on_in_their_order(recipe: RunRecipe, name: str) -> None:
    words = ["drafts.tokens=4"] if name == "sapo" else []
    run = recipe(f"recipe={name}", "engine.shard_prompts=4", *words)
    for number in (1, 2):
        for row in rows(run, number, "label", "preferences"):
            assert (row["chosen_index"], row["rejected_index"], row["votes_chosen"]) == (0, 1, 1)
        made = read_manifest(run / f"round-0{number}" / "generate")
        assert made.inputs["drafts"] == read_manifest(run / f"round-0{number}" / "drafts").content
        assert made.rows["responses"] == 16
    if name == "ladder":
        asked = [row["messages"][0]["content"][-1] for row in rows(run, 2, "ask", "asked")]
        assert asked[:2] == ["5", "2"]
    else:
        replayed = summary(run, 2, "mix")["pairs_by_round"]
        assert replayed["1"] == replayed["2"]
        assert rows(run, 1, "label", "preferences")[0]["chosen"][0]["content"].startswith("the number is")


@pytest.mark.slow
def test_a_tournament_of_inpo(recipe: RunRecipe) -> None:
    run = recipe("panel=rules", "objective=inpo", "preferences=tournament", "sampling.responses=6")
    for number in (1, 2):
        pairs = rows(run, number, "label", "preferences")
        assert len({row["prompt_id"] for row in pairs}) == len(pairs) > 0


@pytest.mark.parametrize(("name", "stages"), [("ladder", ["ask", "generate", "assemble"]), ("sera", ["generate"])])
def test_a_dry_run_shows_how_responses_are_made(name: str, stages: list[str]) -> None:
    specs = list_stages(compose_config(["run=demo", f"recipe={name}"]))
    names = [spec.stage for spec in specs]
    assert names[names.index("select") + 1 : names.index("train")][: len(stages) + 1] == [*stages, "label"]
    assert len({spec.key() for spec in specs}) == len(specs)


NEEDED = {
    "dice": ["policy.aligned_from=x", "mixing.offline.path=y"],
    "sera-bootstrap": ["policy.aligned_from=x", "mixing.offline.path=y"],
    "conditioned": ["mixing.goals.annotator=concision"],
}


@pytest.mark.parametrize("name", group_options("recipe"))
@pytest.mark.parametrize("preset", ["demo", "small-instructions"])
def test_a_recipe_composes_with_a_preset_and_another_objective(name: str, preset: str) -> None:
    words = [f"run={preset}", "prompts.path=p.jsonl", f"recipe={name}", *NEEDED.get(name, [])]
    assert compose_config(words).objective.name == ("c-rlft" if name == "c-rlft" else "dpo")
    assert compose_config([*words, "objective=ipo"]).objective.name == "ipo"


def test_what_a_recipe_lacks_is_asked_for() -> None:
    for words, named in (
        (["recipe=dice"], "policy.aligned_from=..."),
        (["panel=dice"], "policy.aligned_from=<folder>"),
        (["panel=order"], "set drafts=ladder or drafts=sapo"),
        (["recipe=ladder", "drafts.gaps=[5]"], "every gap must be less than best"),
        (["recipe=conditioned", "mixing.goals.annotator=order", "panel=order", "drafts=ladder"], "come in pairs"),
        (["preferences=tournament", "objective=adpo"], "set preferences.pairs=all"),
        (["recipe=dcie"], "dice"),
        (
            ["+evaluation.rates.own={kind: implicit_reward, policy: x, reference: y, length_penalty: level}"],
            "give length_penalty a number",
        ),
    ):
        with pytest.raises(UserError) as caught:
            compose_config(["run=demo", *words])
        assert named in str(caught.value)
