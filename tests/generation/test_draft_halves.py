"""Drafts in two halves: what is asked, and how the responses are put together, through the stages."""

from pathlib import Path
from typing import Any

from storage.schemas import PREFIXES, PROMPTS, RESPONSES, read_parquet
from tasks.generation.draft_halves import Refine, Traces
from tasks.generation.drafts import AskSpec, AssembleSpec, run_ask, run_assemble
from tasks.generation.engines.transformers import TransformersSettings
from tasks.generation.settings import GenerateSpec, GenerationSettings, SamplingSettings
from tasks.generation.stage import run
from tasks.modeling.load import load_tokenizer
from tests.generation.test_drafts import prompts

COMMON: dict[str, Any] = {"round": 1, "seed": 3}


def generate(folder: Path, policy: Path, asked: Path, prefixes: Path | None, *, responses: int) -> GenerateSpec:
    settings = GenerationSettings(
        sampling=SamplingSettings(responses=responses, max_tokens=6), engine=TransformersSettings(dtype="float32")
    )
    spec = GenerateSpec(folder=folder, settings=settings, policy=policy, prompts=asked, prefixes=prefixes, **COMMON)
    run(spec)
    return spec


def responses(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_parquet(sorted(folder.glob("responses-*.parquet")), RESPONSES).to_pylist()
    return rows


def test_half_of_the_responses_begin_with_an_empty_trace(tmp_path: Path, tiny_policy: Path) -> None:
    settings = Traces(kind="traces", empty="the sum ")
    plain = prompts(tmp_path)
    ask = AskSpec(folder=tmp_path / "ask", settings=settings, prompts=plain, policy=tiny_policy, **COMMON)
    run_ask(ask)
    empty = load_tokenizer(tiny_policy).encode("the sum ", add_special_tokens=False)
    pieces = read_parquet(ask.folder / "pieces.parquet", PREFIXES).to_pylist()
    assert [(row["prompt_id"], row["prefix_ids"]) for row in pieces] == [
        ("p0", []), ("p0@empty", empty), ("p1", []), ("p1@empty", empty)
    ]  # fmt: skip
    asked = ask.folder / "asked.parquet"
    sampled = generate(tmp_path / "drafts", tiny_policy, asked, ask.folder / "pieces.parquet", responses=2)
    spec = AssembleSpec(
        folder=tmp_path / "generate", settings=settings, prompts=plain, asked=ask.folder, drafts=sampled.folder,
        policy=tiny_policy, **COMMON,
    )  # fmt: skip
    assert run_assemble(spec).rows == {"responses": 8}
    made, drawn = responses(spec.folder), responses(sampled.folder)
    names = [(row["prompt_id"], row["response_index"]) for row in made]
    assert names == [(f"p{i}", j) for i in (0, 1) for j in range(4)]
    by_name = {(row["prompt_id"], row["response_index"]): row for row in drawn}
    for row in made:
        index, name = row["response_index"], row["prompt_id"]
        source = by_name[name, index] if index < 2 else by_name[f"{name}@empty", index - 2]
        assert row["response_ids"] == [*([] if index < 2 else empty), *source["response_ids"]]
        assert (row["logprobs"] == source["logprobs"]) == (index < 2)
        assert row["prompt_ids"] == by_name[name, 0]["prompt_ids"]


def test_half_of_the_responses_are_refined(tmp_path: Path, tiny_policy: Path) -> None:
    settings, plain = Refine(kind="refine", instruction="Again."), prompts(tmp_path)
    own = generate(tmp_path / "own", tiny_policy, plain, None, responses=2)
    ask = AskSpec(
        folder=tmp_path / "ask", settings=settings, prompts=plain, policy=tiny_policy, own=own.folder, **COMMON
    )
    run_ask(ask)
    asked = read_parquet(ask.folder / "asked.parquet", PROMPTS).to_pylist()
    first = responses(own.folder)
    assert [row["prompt_id"] for row in asked] == ["p0@0", "p0@1", "p1@0", "p1@1"]
    assert [row["messages"] for row in asked] == [
        [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": row["text"]},
            {"role": "user", "content": "Again."},
        ]
        for row in first
    ]
    sampled = generate(tmp_path / "drafts", tiny_policy, ask.folder / "asked.parquet", None, responses=1)
    spec = AssembleSpec(
        folder=tmp_path / "generate", settings=settings, prompts=plain, asked=ask.folder, drafts=sampled.folder,
        own=own.folder, policy=tiny_policy, **COMMON,
    )  # fmt: skip
    assert run_assemble(spec).rows == {"responses": 8}
    made, refined = responses(spec.folder), responses(sampled.folder)
    for number, name in enumerate(("p0", "p1")):
        rows = [row for row in made if row["prompt_id"] == name]
        assert [row["response_ids"] for row in rows[:2]] == [row["response_ids"] for row in first[2 * number :][:2]]
        assert [row["response_ids"] for row in rows[2:]] == [row["response_ids"] for row in refined[2 * number :][:2]]
        assert {tuple(row["prompt_ids"]) for row in rows} == {tuple(first[2 * number]["prompt_ids"])}
