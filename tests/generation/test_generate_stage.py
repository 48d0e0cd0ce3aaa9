"""The generate stage: shards, resumption, and what it refuses."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from storage.errors import UserError
from storage.manifest import MANIFEST
from storage.schemas import PROMPTS, RESPONSES, read_parquet, table, write_parquet
from tasks.generation.encode import check_prompts, request_seed
from tasks.generation.engines import Request, Sample
from tasks.generation.settings import SamplingSettings
from tasks.generation.stage import run
from tasks.generation.verify import SamplerMismatch
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import load_tokenizer
from tests.commands import run_module
from tests.generation.conftest import MakeSpec, WatchedEngine, question


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("responses-*.parquet"))}


def test_rows_are_token_exact(make_spec: MakeSpec, tiny_policy: Path) -> None:
    spec, engine, tokenizer = make_spec(), WatchedEngine(), load_tokenizer(tiny_policy)
    manifest = run(spec, engine=engine)
    names = [f"responses-0000{i}-of-00003.parquet" for i in range(3)]
    assert [entry.path for entry in manifest.files] == names
    assert engine.sampled == [3, 3, 1]
    rows = read_parquet([spec.folder / name for name in names], RESPONSES).to_pylist()
    assert [(row["prompt_id"], row["response_index"]) for row in rows] == [
        (f"{i:016x}", j) for i in range(7) for j in range(2)
    ]
    for i, row in enumerate(rows):
        assert row["prompt_ids"] == encode_chat(tokenizer, question(i // 2))
        assert row["seed"] == request_seed(5, 1, row["prompt_id"]) < 2**62
        assert row["text"] == tokenizer.decode(row["response_ids"], skip_special_tokens=True)
        assert len(row["logprobs"]) == len(row["response_ids"]) <= 12
    assert manifest.rows == {"prompts": 7, "responses": 14}
    assert manifest.summary["tokens"] == sum(len(row["response_ids"]) for row in rows)
    assert manifest.summary["finished"] == sum(row["finish_reason"] == "stop" for row in rows) / 14
    assert manifest.summary["sampler_gap_max"] < 5e-5


def test_an_interrupted_stage_ends_with_the_same_bytes(make_spec: MakeSpec) -> None:
    whole = run(make_spec("whole"), engine=WatchedEngine())
    spec = make_spec("resumed")
    with pytest.raises(KeyboardInterrupt):
        run(spec, engine=WatchedEngine(fail_after=2))
    assert len(shards(spec.folder)) == 2
    engine = WatchedEngine()
    resumed = run(spec, engine=engine)
    assert engine.sampled == [1]
    assert shards(spec.folder) == shards(spec.folder.with_name("whole"))
    assert resumed.content == whole.content
    timing = {"tokens_per_second"}
    assert {k: v for k, v in resumed.summary.items() if k not in timing} == {
        k: v for k, v in whole.summary.items() if k not in timing
    }


def test_a_truncated_shard_is_sampled_again(make_spec: MakeSpec) -> None:
    spec = make_spec()
    run(spec, engine=WatchedEngine())
    before = shards(spec.folder)
    cut = spec.folder / "responses-00001-of-00003.parquet"
    cut.write_bytes(before[cut.name][:-10])
    engine = WatchedEngine()
    run(spec, engine=engine)
    assert engine.sampled == [3]
    assert shards(spec.folder) == before


def test_nothing_is_loaded_when_every_shard_exists(make_spec: MakeSpec) -> None:
    spec = make_spec()
    first = run(spec, engine=WatchedEngine())
    (spec.folder / MANIFEST).unlink()
    engine = WatchedEngine()
    again = run(spec, engine=engine)
    assert not engine.loaded
    assert not engine.sampled
    assert again.content == first.content
    assert again.summary["sampler_gap_max"] == first.summary["sampler_gap_max"]


def test_shards_of_other_settings_are_removed(make_spec: MakeSpec) -> None:
    run(make_spec(), engine=WatchedEngine())
    manifest = run(make_spec(shard_prompts=4), engine=WatchedEngine())
    assert list(shards(make_spec().folder)) == [entry.path for entry in manifest.files]
    assert len(manifest.files) == 2


def test_a_long_prompt_is_refused_before_an_engine_starts(make_spec: MakeSpec) -> None:
    spec, engine = make_spec(max_model_len=45), WatchedEngine()
    rows = [{"prompt_id": f"{i:016x}", "messages": question(0), "source": f"p.jsonl:{i + 1}"} for i in range(3)]
    rows[1]["messages"] = [{"role": "user", "content": "x" * 40}]
    write_parquet(spec.prompts.path, table(rows, PROMPTS))
    with pytest.raises(UserError, match=r"context of 45") as refused:
        run(spec, engine=engine)
    assert refused.value.where == "p.jsonl:2"
    assert "sampling.max_tokens" in refused.value.remedy
    assert engine.loaded == []


def test_the_context_must_hold_prompt_and_response_exactly(tiny_policy: Path) -> None:
    tokenizer = load_tokenizer(tiny_policy)
    prompts = table([{"prompt_id": "0", "messages": question(1), "source": "p.jsonl:1"}], PROMPTS)
    length = len(encode_chat(tokenizer, question(1)))
    assert len(check_prompts(prompts, tokenizer, length + 9, 9)[0]) == length
    with pytest.raises(UserError):
        check_prompts(prompts, tokenizer, length + 8, 9)


def test_equal_responses_are_refused(make_spec: MakeSpec) -> None:
    with pytest.raises(UserError, match="2 times the same"):
        run(make_spec(temperature=0.0), engine=WatchedEngine())


class WrongWeights(WatchedEngine):
    """Samples from the policy, but returns other log-probabilities."""

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        return [
            [Sample(s.token_ids, [x - 0.01 for x in s.logprobs], s.finish_reason) for s in row]
            for row in super().sample(requests, sampling)
        ]


def test_a_wrong_sampler_is_refused_and_nothing_published(make_spec: MakeSpec, tiny_policy: Path) -> None:
    spec = make_spec()
    with pytest.raises(SamplerMismatch, match=str(tiny_policy)):
        run(spec, engine=WrongWeights())
    assert shards(spec.folder) == {}
    assert run(spec, engine=WatchedEngine()).rows["responses"] == 14


def test_a_resumed_stage_verifies_its_new_engine(make_spec: MakeSpec) -> None:
    spec = make_spec()
    with pytest.raises(KeyboardInterrupt):
        run(spec, engine=WatchedEngine(fail_after=1))
    with pytest.raises(SamplerMismatch):
        run(spec, engine=WrongWeights())
    assert len(shards(spec.folder)) == 1


def test_command(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec()
    spec.save(tmp_path / "spec.yaml")
    done = run_module("tasks.run", tmp_path / "spec.yaml")
    assert (done.code, done.out.strip()) == (0, str(spec.folder / MANIFEST)), done.err
    assert shards(spec.folder)


def test_command_shows_a_user_error_on_one_screen(make_spec: MakeSpec, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    make_spec().save(path)
    path.write_text(path.read_text() + "polcy: x\n")
    done = run_module("tasks.run", tmp_path / "spec.yaml")
    assert done.code == 2
    assert "polcy" in done.err
    assert "remedy:" in done.err
    assert len(done.err.splitlines()) < 10
