"""Active selection: which prompts are unsure, by hand; and that the dear annotator is shown only their pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.arrays import Ints
from storage.schemas import SCORES, VOTES, table
from tasks.panel.active import ActiveSettings, most_unsure, unsure_prompts, vote_in_two_passes
from tasks.panel.annotators.protocol import Response
from tasks.panel.questions import PanelVotes
from tasks.panel.settings import PanelSettings


def vote(prompt: str, a: int, b: int, name: str, outcome: str, probability: float | None = None) -> dict[str, Any]:
    return {"prompt_id": prompt, "source_a": "policy", "index_a": a, "source_b": "policy", "index_b": b,
            "annotator": name, "kind": "scores", "order": "none", "outcome": outcome,
            "probability": probability}  # fmt: skip


def test_the_least_sure_prompts_by_hand() -> None:
    prompt, preference = np.array([0, 0, 1, 3, 3]), np.array([0.9, 0.7, 0.5, 0.0, 0.5])
    # How sure: .6, 0, no votes, .5.
    assert most_unsure(prompt, preference, 4, 0.25).tolist() == [2]
    assert most_unsure(prompt, preference, 4, 0.5).tolist() == [1, 2]
    assert most_unsure(prompt, preference, 4, 0.75).tolist() == [1, 2, 3]
    assert most_unsure(prompt, preference, 4, 0.01).tolist() == [2]


def votes() -> pa.Table:
    rows = [
        vote("sure", 0, 1, "one", "a"), vote("sure", 0, 1, "two", "a"),
        vote("split", 0, 1, "one", "a"), vote("split", 0, 1, "two", "b"),
        vote("soft", 0, 1, "one", "a", 0.6), vote("soft", 0, 1, "two", "abstain"),
    ]  # fmt: skip
    return table(rows, VOTES)


def test_votes_for_a_pair_are_pooled_and_soft_ones_count_by_their_probability() -> None:
    prompts = ["sure", "split", "soft"]
    assert unsure_prompts(votes(), prompts, 0.34) == ["split"]
    assert unsure_prompts(votes(), prompts, 0.67) == ["split", "soft"]


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


def test_the_dear_annotator_is_shown_the_chosen_prompts_only() -> None:
    names = ("sure", "split", "soft")
    responses = [Response(name, "policy", index, [], None, None, "x", True) for name in names for index in (0, 1)]
    pairs: Ints = np.array([[0, 1], [2, 3], [4, 5]])
    asked: list[tuple[list[str], list[list[int]], str]] = []

    def vote_on(some: Sequence[Any], comparisons: Ints, group: str) -> PanelVotes:
        asked.append(([each.name for each in some], comparisons.tolist(), group))
        made = votes() if group == "panel" else table([vote("split", 0, 1, "judge", "b")], VOTES)
        return PanelVotes(SCORES.empty_table(), made)

    panel: Any = [Named("judge"), Named("one"), Named("two")]
    active = ActiveSettings(annotators=["judge"], share=0.34)
    found = vote_in_two_passes(panel, responses, pairs, active, vote_on)
    assert asked == [(["one", "two"], pairs.tolist(), "panel"), (["judge"], [[2, 3]], "active")]
    assert found.votes["annotator"].to_pylist() == ["one", "two"] * 3 + ["judge"]
    asked.clear()
    vote_in_two_passes(panel, responses, pairs, None, vote_on)
    assert asked == [(["judge", "one", "two"], pairs.tolist(), "panel")]


@pytest.mark.parametrize(
    ("active", "message"),
    [
        ({"annotators": ["nobody"], "share": 0.5}, "nobody is not on the panel"),
        ({"annotators": ["short"], "share": 0.5}, "short does not vote on pairs"),
        ({"annotators": ["judge"], "share": 1.0}, "less than 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(active: dict[str, Any], message: str) -> None:
    annotators = {
        "judge": {"kind": "judge", "model": "m", "base_url": "http://127.0.0.1:1/v1"},
        "short": {"kind": "rule", "shorter": True},
    }
    with pytest.raises(ValueError, match=message):
        PanelSettings.model_validate({"annotators": annotators, "active": active})


def test_somebody_must_be_left_to_say_where() -> None:
    judge = {"kind": "judge", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    with pytest.raises(ValueError, match="nobody is left"):
        PanelSettings.model_validate({"annotators": {"j": judge}, "active": {"annotators": ["j"], "share": 0.5}})
