"""Drafted pairs: the prompts that the policy gets, how its answers are assembled, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from storage.errors import UserError
from storage.schemas import PREFIXES, PROMPTS, RESPONSES, read_parquet, table, write_parquet
from tasks.generation.drafts import AskSpec, AssembleSpec, Ladder, Sapo, _augmented, run_ask, run_assemble
from tasks.generation.engines.transformers import TransformersSettings
from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
from tasks.generation.stage import run
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import load_tokenizer

REFERENCES = ["the sum of the numbers is not known to the reader", "a kind reply is better"]


def prompts(folder: Path, *, references: list[str | None] | None = None, system: str | None = None) -> Path:
    rows = [
        {
            "prompt_id": f"p{i}",
            "messages": [
                *([{"role": "system", "content": system}] if system else []),
                {"role": "user", "content": "x"},
            ],
            "reference": reference,
            "source": f"file:{i + 1}",
        }
        for i, reference in enumerate(references or REFERENCES)
    ]
    path = folder / "prompts.parquet"
    write_parquet(path, table(rows, PROMPTS))
    return path


def run_stages(
    folder: Path, policy: Path, settings: Ladder | Sapo, asked_prompts: Path, *, number: int = 1, tokens: int = 6
) -> dict[str, list[dict[str, Any]]]:
    """Run the three stages with the transformers engine. Returns the rows of each of their files, by name."""
    common: dict[str, Any] = {"round": number, "seed": 3}
    ask = AskSpec(folder=folder / "ask", settings=settings, prompts=asked_prompts, policy=policy, **common)
    run_ask(ask)
    generation = GenerationSettings(
        sampling=SamplingSettings(responses=1, max_tokens=tokens),
        engine=TransformersSettings(dtype="float32"),
    )
    sampled = GenerateSpec(
        folder=folder / "drafts", settings=generation, policy=policy, prompts=ask.folder / "asked.parquet",
        prefixes=ask.folder / "pieces.parquet" if isinstance(settings, Sapo) else None, **common,
    )  # fmt: skip
    run(sampled)
    spec = AssembleSpec(
        folder=folder / "generate", settings=settings, prompts=asked_prompts, asked=ask.folder, drafts=sampled.folder,
        policy=policy, **common,
    )  # fmt: skip
    manifest = run_assemble(spec)
    assert manifest.rows == {"responses": 2 * len(read_parquet(asked_prompts, PROMPTS))}
    return {
        "asked": read_parquet(ask.folder / "asked.parquet", PROMPTS).to_pylist(),
        "pieces": read_parquet(ask.folder / "pieces.parquet", PREFIXES).to_pylist(),
        "drafts": read_parquet(sorted(sampled.folder.glob("responses-*.parquet")), RESPONSES).to_pylist(),
        "responses": read_parquet(sorted(spec.folder.glob("responses-*.parquet")), RESPONSES).to_pylist(),
    }


def test_the_gap_shrinks_by_round() -> None:
    ladder = Ladder(kind="ladder")
    assert [ladder.qualities(n) for n in (1, 2, 4, 9)] == [(5, 1), (5, 2), (5, 4), (5, 4)]


def test_a_ladder_asks_for_two_qualities_and_keeps_the_plain_prompt(tmp_path: Path, tiny_policy: Path) -> None:
    settings = Ladder(kind="ladder", instruction="quality {quality}", gaps=[2, 1])
    rows = run_stages(tmp_path, tiny_policy, settings, prompts(tmp_path, system="be kind"), number=2)
    assert [row["prompt_id"] for row in rows["asked"]] == ["p0@5", "p0@4", "p1@5", "p1@4"]
    assert [row["messages"][0]["content"] for row in rows["asked"][:2]] == [
        "be kind\n\nquality 5", "be kind\n\nquality 4",
    ]  # fmt: skip
    tokenizer = load_tokenizer(tiny_policy)
    plain = encode_chat(tokenizer, [{"role": "system", "content": "be kind"}, {"role": "user", "content": "x"}])
    for asked, draft, response in zip(rows["asked"], rows["drafts"], rows["responses"], strict=True):
        assert draft["prompt_ids"] == encode_chat(tokenizer, asked["messages"])
        assert (response["response_ids"], response["text"]) == (draft["response_ids"], draft["text"])
        assert response["finish_reason"] == draft["finish_reason"]
        assert response["prompt_ids"] == plain
    assert [(row["prompt_id"], row["response_index"]) for row in rows["responses"]] == [
        ("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1),
    ]  # fmt: skip


def test_sapo_rewrites_a_part_of_the_reference(tmp_path: Path, tiny_policy: Path) -> None:
    rows = run_stages(tmp_path, tiny_policy, Sapo(kind="sapo", tokens=4), prompts(tmp_path), tokens=4)
    tokenizer = load_tokenizer(tiny_policy)
    for i, reference in enumerate(REFERENCES):
        whole = [*tokenizer(reference, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        piece, draft = rows["pieces"][i], rows["drafts"][i]
        first, second = rows["responses"][2 * i : 2 * i + 2]
        assert (first["response_ids"], first["finish_reason"]) == (whole, "stop")
        assert whole[: len(piece["prefix_ids"])] == piece["prefix_ids"]
        assert whole[len(piece["prefix_ids"]) + 4 :] == piece["suffix_ids"]
        # The policy continued the prefix.
        assert draft["prompt_ids"] == first["prompt_ids"] + piece["prefix_ids"]
        after = [] if draft["finish_reason"] == "stop" else piece["suffix_ids"]
        assert second["response_ids"] == piece["prefix_ids"] + draft["response_ids"] + after
        assert second["finish_reason"] == "stop"
    again = run_stages(tmp_path / "again", tiny_policy, Sapo(kind="sapo", tokens=4), prompts(tmp_path), tokens=4)
    assert again["pieces"] == rows["pieces"]
    assert [row["response_ids"] for row in again["responses"]] == [row["response_ids"] for row in rows["responses"]]


def test_a_rewritten_part_is_not_longer_than_the_original() -> None:
    pieces = {"prefix_ids": [1], "suffix_ids": [4, 0]}
    whole = [1, 2, 3, 4, 0]
    assert _augmented(whole, pieces, {"response_ids": [7, 8, 9], "finish_reason": "length"}) == [1, 7, 8, 4, 0]
    assert _augmented(whole, pieces, {"response_ids": [7, 8, 9, 0], "finish_reason": "stop"}) == [1, 7, 8, 4, 0]
    assert _augmented(whole, pieces, {"response_ids": [7, 0], "finish_reason": "stop"}) == [1, 7, 0]


def test_a_prompt_without_a_reference_is_refused_by_its_line(tmp_path: Path, tiny_policy: Path) -> None:
    with pytest.raises(UserError, match="no reference") as caught:
        run_stages(tmp_path, tiny_policy, Sapo(kind="sapo"), prompts(tmp_path, references=["a", None]))
    assert caught.value.where == "file:2"


def test_a_prefix_that_leaves_no_room_is_refused(tmp_path: Path, tiny_policy: Path) -> None:
    with pytest.raises(UserError, match="does not fit the context of 256"):
        run_stages(
            tmp_path, tiny_policy, Sapo(kind="sapo", tokens=1), prompts(tmp_path, references=["a b " * 120]), tokens=100
        )
