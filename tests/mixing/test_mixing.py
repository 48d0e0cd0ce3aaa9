"""Replay of earlier rounds and an offline set: shares, whole prompts, formats, and what is refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.errors import UserError
from storage.schemas import PREFERENCES, read_parquet, write_parquet
from tasks.mixing.offline import OfflineSettings, read_offline
from tasks.mixing.settings import MixingSettings
from tasks.mixing.stage import MixSpec, run_mix
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import load_tokenizer

Mix = Callable[..., tuple[pa.Table, dict[str, int]]]


def preferences(path: Path, number: int, prompts: int, pairs: int) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"ask {prompt}"}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
            "prompt_id": f"p{prompt}",
            "round": number,
            "chosen_index": 0,
            "rejected_index": pair + 1,
            **dict.fromkeys(("p_hat", "target", "target_se", "votes_chosen", "votes_rejected", "votes_tie"), 0.5),
            **dict.fromkeys(("votes_abstain", "votes_error"), 0),
            **{name: [1, 2] for name in ("prompt_ids", "chosen_ids", "rejected_ids")},
            **dict.fromkeys(("chosen_finish_reason", "rejected_finish_reason"), "stop"),
        }
        for prompt in range(prompts)
        for pair in range(pairs)
    ]
    write_parquet(path, pa.Table.from_pylist(rows, schema=PREFERENCES))
    return path


@pytest.fixture
def mix(tmp_path: Path, tiny_policy: Path) -> Mix:
    own = preferences(tmp_path / "own.parquet", 3, 20, 3)  # 60 pairs
    earlier = [preferences(tmp_path / f"round-{n}.parquet", n, 20, 3) for n in (1, 2)]  # 120

    def run(out: str = "mix", seed: int = 0, **settings: Any) -> tuple[pa.Table, dict[str, int]]:
        spec = MixSpec(
            folder=tmp_path / out, round=3, seed=seed, settings=MixingSettings(**settings), own=own,
            earlier=earlier, policy=tiny_policy,
        )  # fmt: skip
        manifest = run_mix(spec)
        return read_parquet(spec.folder / "preferences.parquet", PREFERENCES), manifest.summary["pairs_by_round"]

    return run


@pytest.mark.parametrize(("share", "least"), [(0.25, 20), (0.5, 60), (0.6, 90)])
def test_a_share_is_of_all_that_is_trained_on(mix: Mix, share: float, least: int) -> None:
    mixed, rounds = mix(replay=share)
    replayed = len(mixed) - 60
    assert least <= replayed < least + 3  # whole prompts of three pairs
    assert rounds["3"] == 60
    assert share == pytest.approx(replayed / len(mixed), abs=0.02)
    counts = mixed.group_by(["round", "prompt_id"]).aggregate([([], "count_all")])
    assert set(counts["count_all"].to_pylist()) == {3}
    assert mixed["round"].to_pylist()[:60] == [3] * 60


def test_all_is_all_and_what_is_drawn_hangs_on_the_seed(mix: Mix) -> None:
    assert mix(replay="all")[1] == {"3": 60, "1": 60, "2": 60}
    one, two, other = (mix(out, seed, replay=0.3)[0] for out, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert one.equals(two)
    assert not one.equals(other)


def test_the_first_round_has_nothing_to_replay(tmp_path: Path, tiny_policy: Path) -> None:
    own = preferences(tmp_path / "own.parquet", 1, 4, 1)
    spec = MixSpec(
        folder=tmp_path / "mix", round=1, seed=0, settings=MixingSettings(replay=0.5), own=own, earlier=[],
        policy=tiny_policy,
    )  # fmt: skip
    assert run_mix(spec).rows == {"preferences": 4}


FORMATS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "ask", "chosen": "good", "rejected": "bad"},
    "conversations": {
        "prompt": [{"role": "user", "content": "ask"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    },
    "whole conversations": {
        side: [{"role": "user", "content": "ask"}, {"role": "assistant", "content": text}]
        for side, text in (("chosen", "good"), ("rejected", "bad"))
    },
}
OTHER = [{"role": "user", "content": "other"}, {"role": "assistant", "content": "bad"}]


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_every_format_of_trl_is_read(tmp_path: Path, tiny_policy: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "set.jsonl"
    twin = dict(row) | {"chosen": row["rejected"], "rejected": row["chosen"], "p_hat": 0.75}
    path.write_text("".join(json.dumps(line) + "\n" for line in (row, twin)))
    tokenizer = load_tokenizer(tiny_policy)
    first, second = read_offline(OfflineSettings(path=path, share=0.5, p_hat=0.9), tokenizer).to_pylist()
    assert first["prompt"] == [{"role": "user", "content": "ask"}]
    assert first["prompt_ids"] == encode_chat(tokenizer, first["prompt"])
    assert first["chosen_ids"] == [*tokenizer("good", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert first["target"] == pytest.approx(math.log(9))
    assert (second["p_hat"], second["target"]) == (0.75, pytest.approx(math.log(3)))
    assert (first["chosen_index"], first["rejected_index"]) == (second["rejected_index"], second["chosen_index"])
    assert math.isnan(first["target_se"])
    assert (first["round"], first["votes_chosen"]) == (0, 0.0)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "ask", "chosen": "good"}, "not a pair"),
        ({"chosen": "good", "rejected": "bad"}, "has no prompt"),
        ({"prompt": "ask", "chosen": [{"role": "user", "content": "x"}], "rejected": "bad"}, "not a pair"),
        (
            FORMATS["whole conversations"] | {"rejected": [{"role": "user", "content": "other"}, {}]},
            "message 2 of rejected",
        ),
        (FORMATS["whole conversations"] | {"rejected": OTHER}, "do not start"),
        (FORMATS["texts"], "has no p_hat"),
        (FORMATS["texts"] | {"p_hat": 0.2}, "p_hat is 0.2"),
        (FORMATS["texts"] | {"p_hat": 1}, "p_hat is 1"),
    ],
)
def test_rows_that_are_not_pairs_are_refused_by_line(
    tmp_path: Path, tiny_policy: Path, row: dict[str, Any], named: str
) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(FORMATS["texts"] | {"p_hat": 0.8}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=named) as caught:
        read_offline(OfflineSettings(path=path, share=0.5), load_tokenizer(tiny_policy))
    assert caught.value.where == f"{path}:2"


def test_an_offline_set_has_its_share(mix: Mix, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    rows = [FORMATS["texts"] | {"prompt": f"ask {i}"} for i in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    offline = {"path": path, "share": 0.25, "p_hat": 0.9}
    assert mix("a", offline=offline)[1] == {"3": 60, "offline": 20}
    mixed, rounds = mix("b", replay=0.25, offline=offline)
    assert (rounds["3"], rounds["offline"]) == (60, 30)
    assert len(mixed) == 120
    with pytest.raises(UserError, match="has 50 pairs, but its share of this round is 60"):
        mix("c", offline=offline | {"share": 0.5})


def test_shares_leave_some_for_the_round() -> None:
    with pytest.raises(ValueError, match="less than 1"):
        MixingSettings(replay=0.6, offline=OfflineSettings(path=Path("x"), share=0.4))
    with pytest.raises(ValueError, match="less than 1"):
        MixingSettings(replay=1.0)
