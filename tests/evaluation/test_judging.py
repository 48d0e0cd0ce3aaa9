"""The judge stage: sources compared with the first, and rates."""

from typing import Any

import pyarrow.parquet as pq
import pytest

from storage.errors import UserError
from tasks.evaluation.judging import run_judging
from tasks.evaluation.settings import JudgeSpec, JudgingSettings
from tests.panel.conftest import World

Annotators = dict[str, dict[str, Any]]

LENGTH = {"kind": "function", "function": "voters:length"}
PERSON = {"kind": "simulated", "utility": "voters:quality", "noise": 0.0, "scale": 0.01}
TEXTS = {
    "policy": {"p": ["q3 long", "q1 x"], "q": ["q2 y", "q2 y"]},
    "initial": {"p": ["q1 a", "q1 long long"], "q": ["q1 y", "q3 y"]},
    "previous": {"p": ["q9 b", "q1 x"], "q": ["q1 y", "q1 y"]},
}


def spec(
    world: World, judges: Annotators, rates: Annotators | None = None, texts: dict[str, dict[str, list[str]]] = TEXTS
) -> JudgeSpec:
    return JudgeSpec(
        folder=world.folder / "judge",
        round=2,
        seed=1,
        settings=JudgingSettings.model_validate({"judges": judges, "rates": rates or {}}),
        responses={name: world.responses(source, name=name) for name, source in texts.items()},
        prompts=world.prompts(["p", "q"]),
    )


def rows(world: World, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(world.folder / "judge" / f"{name}.parquet").to_pylist()
    return found


def test_each_source_against_the_first(world: World) -> None:
    manifest = run_judging(
        spec(world, {"length": LENGTH, "person": PERSON}, {"brief": {"kind": "rule", "shorter": True}})
    )
    votes = rows(world, "votes")
    assert len(votes) == 2 * 8
    assert {(v["source_a"], v["index_a"] == v["index_b"]) for v in votes} == {("policy", True)}
    length = {(v["prompt_id"], v["source_b"], v["index_a"]): v["outcome"] for v in votes if v["annotator"] == "length"}
    assert length == {
        ("p", "initial", 0): "a",
        ("p", "initial", 1): "b",
        ("q", "initial", 0): "tie",
        ("q", "initial", 1): "tie",
        ("p", "previous", 0): "a",
        ("p", "previous", 1): "tie",
        ("q", "previous", 0): "tie",
        ("q", "previous", 1): "tie",
    }
    person = {(v["prompt_id"], v["source_b"], v["index_a"]): v["outcome"] for v in votes if v["annotator"] == "person"}
    assert person["p", "initial", 0] == "a"
    assert person["q", "initial", 1] == "b"
    assert person["p", "previous", 0] == "b"
    scores = rows(world, "scores")
    sources = {name: [s["source"] for s in scores if s["annotator"] == name] for name in ("length", "brief", "person")}
    assert sources["length"] == ["policy"] * 4 + ["initial"] * 4 + ["previous"] * 4  # each response once
    assert sources["brief"] == ["policy"] * 4
    assert sources["person"] == []
    assert manifest.rows == {"votes": 16, "scores": 16}
    assert manifest.summary["comparisons"] == 8


def test_rates_alone_for_one_source(world: World) -> None:
    run_judging(spec(world, {}, {"length": LENGTH}, {"policy": TEXTS["policy"]}))
    assert rows(world, "votes") == []
    assert [(s["prompt_id"], s["response_index"], s["score"]) for s in rows(world, "scores")] == [
        ("p", 0, 7.0),
        ("p", 1, 4.0),
        ("q", 0, 4.0),
        ("q", 1, 4.0),
    ]


def test_a_rate_that_is_a_judge_too_is_scored_once(world: World) -> None:
    run_judging(spec(world, {"length": LENGTH}, {"length": LENGTH}))
    assert len(rows(world, "scores")) == 12


def test_no_judges_and_no_rates_leave_empty_files(world: World) -> None:
    run_judging(spec(world, {}, {}))
    assert rows(world, "votes") == rows(world, "scores") == []


@pytest.mark.parametrize(
    ("judges", "rates", "texts", "wanted"),
    [
        ({"length": LENGTH}, {}, {}, "no responses to judge"),
        ({"length": LENGTH}, {"person": PERSON}, TEXTS, "cannot score single responses"),
        ({"x": LENGTH}, {"x": {"kind": "rule", "shorter": True}}, TEXTS, "two different annotators"),
        (
            {"length": LENGTH},
            {},
            TEXTS | {"initial": {"p": ["q1"], "q": ["q1"]}},
            "different prompts, or different numbers",
        ),
    ],
)
def test_refusals(
    world: World, judges: Annotators, rates: Annotators, texts: dict[str, dict[str, list[str]]], wanted: str
) -> None:
    with pytest.raises(UserError, match=wanted):
        run_judging(spec(world, judges, rates, texts))
