"""Prompts: real files in, file and line in every refusal, training and held-out prompts apart, rounds that differ."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.artifact import Artifact
from storage.errors import UserError
from storage.schemas import PROMPTS, read_parquet
from tasks.generation.prompts import (
    ROUND,
    TRAIN,
    PromptSettings,
    PromptsSpec,
    SelectSettings,
    SelectSpec,
    prompt_artifacts,
    read_apart,
    run_prompts,
    run_select,
)
from tasks.modeling.hub_rows import hub_rows
from tests.skips import NO_PUBLIC_DATA

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def settings(path: Path, **more: Any) -> PromptSettings:
    return PromptSettings(path=str(path), **more)


def read_both(settings: PromptSettings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training, held-out) rows."""
    rows = list(read_apart(settings))
    return [row for held, row in rows if not held], [row for held, row in rows if held]


def questions(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"question {i}", "answer": str(i)} for i in range(count)]


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(questions(50)), path)
    else:
        write_jsonl(path, questions(50))
    training, heldout = read_both(settings(path, heldout=0.2))
    assert sorted(row["answer"] for row in training + heldout) == sorted(str(i) for i in range(50))
    assert {row["prompt_id"] for row in training}.isdisjoint(row["prompt_id"] for row in heldout)
    assert 2 <= len(heldout) <= 20


def test_messages_lose_a_trailing_reply(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write_jsonl(tmp_path / "p.jsonl", [{"messages": turns}, *questions(30)])
    training, heldout = read_both(settings(path, heldout=0.3))
    assert [{"role": "user", "content": "a"}] in [row["messages"] for row in training + heldout]


def test_a_heldout_file_takes_its_prompts_out_of_training(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", questions(10))
    held = write_jsonl(tmp_path / "h.jsonl", questions(3))
    training, heldout = read_both(settings(path, heldout=str(held)))
    assert [row["answer"] for row in training] == [str(i) for i in range(3, 10)]
    assert len(heldout) == 3


@pytest.mark.parametrize(
    ("rows", "line", "what"),
    [
        ([{"prompt": "x"}, {"answer": "1"}], ":2", "no prompt"),
        ([{"prompt": "x"}, {"prompt": "  "}], ":2", "no prompt"),
        ([{"prompt": "x"}, "{broken"], ":2", "not JSON"),
        (["[1]"], ":1", "not a JSON object"),
        ([{"messages": [{"role": "user"}]}], ":1", "messages"),
        ([{"messages": [{"role": "assistant", "content": "a"}]}], ":1", "user's turn"),
        ([], "p.jsonl", "no prompts"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, rows: list[Any], line: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        read_both(settings(write_jsonl(tmp_path / "p.jsonl", rows)))
    assert what in str(caught.value)
    assert line in caught.value.where


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "x"}\n' * 100)[:-12])
    (tmp_path / "p.csv").write_text("a,b")
    (tmp_path / "p.parquet").write_text("not parquet")
    for name in ("cut.jsonl.gz", "p.csv", "p.parquet", "absent.jsonl"):
        with pytest.raises(UserError) as caught:
            read_both(settings(tmp_path / name))
        assert name in caught.value.where


def publish(tmp_path: Path, count: int, policy: Path) -> Path:
    path = write_jsonl(tmp_path / "p.jsonl", questions(count))
    spec = PromptsSpec(
        folder=tmp_path / "prompts",
        round=0,
        seed=0,
        settings=settings(path, heldout=0.1),
        prompts=Artifact.of(path),
        policy=Artifact.of(policy),
        context=128,
        max_tokens=8,
    )
    run_prompts(spec)
    return spec.folder


def test_rounds_use_up_the_prompts_before_any_comes_again(tmp_path: Path, tiny_policy: Path) -> None:
    folder = publish(tmp_path, 60, tiny_policy)
    total = read_parquet(folder / TRAIN, PROMPTS).num_rows

    def select(number: int, seed: int = 0) -> list[str]:
        spec = SelectSpec(
            folder=tmp_path / f"round-{number}-{seed}",
            round=number,
            seed=seed,
            settings=SelectSettings(per_round=20),
            prompts=Artifact.of(folder),
        )
        run_select(spec)
        ids: list[str] = read_parquet(spec.folder / ROUND, PROMPTS).column("prompt_id").to_pylist()
        return ids

    first, second = select(1), select(2)
    assert len(set(first)) == len(set(second)) == 20
    assert set(first).isdisjoint(second)
    assert len(set(first + second + select(3))) == min(60, total)
    assert select(1, seed=1) != first


@pytest.mark.skipif(not SHARED.is_dir(), reason=NO_PUBLIC_DATA)
def test_public_prompt_files_are_read() -> None:
    tasks, _ = read_both(
        settings(
            SHARED / "prompts" / "self_instruct_seed_tasks.jsonl.gz",
            prompt_fields=["instruction", "instances.0.input"],
            reference_field="instances.0.output",
        )
    )
    problems, _ = read_both(settings(SHARED / "eval" / "gsm8k_train.jsonl.gz", limit=100))
    assert all(row["reference"] for row in tasks)
    assert all("####" in row["answer"] for row in problems)


def test_a_data_set_of_the_hub_is_read_by_its_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's part is played by a folder, which datasets loads in the same way."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", questions(3))
    rows = list(hub_rows(str(tmp_path / "set"), "train", setting="prompts"))
    assert [row["prompt"] for _, row in rows] == ["question 0", "question 1", "question 2"]
    assert rows[1][0].endswith(":train row 1")
    with pytest.raises(UserError, match="cannot be loaded"):
        list(hub_rows(str(tmp_path / "set"), "test", setting="prompts"))


def test_a_data_set_of_the_hub_is_keyed_by_its_id_and_split(tmp_path: Path) -> None:
    found, _ = prompt_artifacts(settings(Path("nobody/has-this"), split="train"))
    assert found.digest == "nobody/has-this:train"
    folder = tmp_path / "set"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", questions(3))
    before, _ = prompt_artifacts(settings(folder, split="train"))
    write_jsonl(folder / "train.jsonl", questions(4))
    assert before.digest != prompt_artifacts(settings(folder, split="train"))[0].digest
