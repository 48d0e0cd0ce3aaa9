"""Every method trains, with the settings of its file in conf/objective, on the data that the stage provides."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.compose import CONF, group_options
from storage.artifact import Artifact
from storage.errors import UserError
from storage.schemas import COUNTED_VOTES, REFERENCE, RESPONSES, SCORES, read_parquet, table, write_parquet
from storage.stage import silent
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import load_policy, load_tokenizer
from tasks.modeling.logprobs import TokenSequence, sequence_logprobs
from tasks.training.batching import PackedForward
from tasks.training.objectives.rpo import PAPERS_EMBEDDER
from tasks.training.settings import TrainSpec
from tasks.training.trainer import run
from tasks.training.training_data import TrainingData
from tests.conftest import MakePolicy
from tests.training.conftest import MakeSpec
from tests.training.preference_rows import preference_rows

METHODS = [name for name in group_options("objective") if name != "irepo-small"]


def rows() -> list[dict[str, Any]]:
    return preference_rows(prompts=6, responses=3)


def vote(prompt: str, a: int, b: int, annotator: str, outcome: str, weight: float = 1.0) -> dict[str, Any]:
    share = {"a": 1.0, "b": 0.0, "tie": 0.5}[outcome]
    return {"prompt_id": prompt, "index_a": a, "index_b": b, "annotator": annotator, "share": share, "weight": weight}


def score(prompt: str, index: int, annotator: str, value: float | None) -> dict[str, Any]:
    outcome = "score" if value is not None else "abstain"
    return {"prompt_id": prompt, "source": "policy", "response_index": index, "annotator": annotator,
            "outcome": outcome, "score": value}  # fmt: skip


@pytest.fixture
def label_stage(tmp_path: Path) -> dict[str, dict[int, Path]]:
    """scores.parquet and votes.parquet that match the preferences of `rows`."""
    prompts = {row["prompt_id"] for row in rows()}
    votes = [
        vote(row["prompt_id"], row["chosen_index"], row["rejected_index"], name, outcome)
        for row in rows()
        for name, outcome in (("one", "a"), ("two", "a"), ("three", "b"))
    ]
    scores = [
        score(prompt, index, name, index * factor)
        for prompt in prompts
        for index in range(3)
        for name, factor in (("one", 1.0), ("two", -3.0))
    ]
    paths = {"votes": tmp_path / "votes.parquet", "scores": tmp_path / "scores.parquet"}
    write_parquet(paths["votes"], table(votes, COUNTED_VOTES))
    write_parquet(paths["scores"], table(scores, SCORES))
    return {name: {1: path} for name, path in paths.items()}


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    """A generate stage with one response per prompt."""
    prompts = {row["prompt_id"]: row["prompt_ids"] for row in rows()}
    responses = [
        {"prompt_id": name, "response_index": 0, "prompt_ids": ids, "response_ids": [40, 41, 2], "text": "",
         "finish_reason": "stop", "logprobs": [0.0, 0.0, 0.0], "seed": 0}
        for name, ids in prompts.items()
    ]  # fmt: skip
    write_parquet(tmp_path / "extra" / "responses-00000.parquet", table(responses, RESPONSES))
    return tmp_path / "extra"


#: What a method needs besides: responses in two halves, or prompts with a goal.
NEEDED: dict[str, dict[str, Any]] = {
    "nash-md": {"first_half": 2},
    "bvpo": {"first_half": 3},
    "c-rlft": {"rows": [row | {"prompt_id": f"{row['prompt_id']}@10"} for row in rows()]},
}


def configured(method: str) -> dict[str, Any]:
    """What the method's file says, without Hydra; that it composes is tested in tests/conf/test_compose.py."""
    written: dict[str, Any] = yaml.safe_load((CONF / "objective" / f"{method}.yaml").read_text(encoding="utf-8"))
    bases = [base for base in written.pop("defaults", []) if base != "_self_"]
    return {name: value for base in bases for name, value in configured(base).items()} | written


def spec_of(method: str, make_spec: MakeSpec, make_policy: MakePolicy, **fields: Any) -> TrainSpec:
    """A spec of two steps with the method's configured settings; its reference differs if it is the initial policy."""
    objective = configured(method)
    if objective.get("embedder") == PAPERS_EMBEDDER:
        objective["embedder"] = "policy"
    if objective.get("reference", "initial") == "initial":
        fields |= {"reference": make_policy(seed=1)}
    optimization = {"prompts_per_step": 3, "microbatch_tokens": 120}
    return make_spec(objective=objective, optimization=optimization, **({"rows": rows()} | fields))


def metrics(spec: TrainSpec) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (spec.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_two_steps(
    method: str, make_spec: MakeSpec, make_policy: MakePolicy, label_stage: dict[str, dict[int, Path]], extra: Path
) -> None:
    fields = NEEDED.get(method, {})
    spec = spec_of(method, make_spec, make_policy, **label_stage, extra=extra, mixture=0.5, **fields)
    manifest = run(spec)
    assert manifest.rows["steps"] == 2
    assert all(step["grad_norm"] > 0 for step in metrics(spec))
    assert manifest.rows["responses"] == 18


def test_memory_of_an_objective_carries_over_to_the_next_step(
    make_spec: MakeSpec, make_policy: MakePolicy, label_stage: dict[str, dict[int, Path]]
) -> None:
    """LCPO's annotator reliabilities are updated in each step and written to the metrics."""
    spec = spec_of("lcpo", make_spec, make_policy, **label_stage)
    run(spec)
    first, second = (step["details"] for step in metrics(spec))
    assert first.keys() == {"reliability/one", "reliability/two", "reliability/three"}
    assert all(0.5 <= value <= 0.999 for value in second.values())
    assert first != second


def test_previous_policy_has_its_own_log_probabilities(make_spec: MakeSpec, make_policy: MakePolicy) -> None:
    """INPO reads log-probabilities of the initial policy and of the policy that training starts from."""
    spec = spec_of("inpo", make_spec, make_policy)
    manifest = run(spec)
    files = {entry.path for entry in manifest.files}
    assert {"reference.parquet", "previous.parquet"} <= files
    assert (spec.folder / "reference.parquet").read_bytes() != (spec.folder / "previous.parquet").read_bytes()
    alone = run(make_spec("alone", objective={"name": "inpo"}, rows=rows()))
    assert "previous.parquet" not in {entry.path for entry in alone.files}  # the starting policy is the reference


def test_quality_is_the_gain_from_the_instruction(make_spec: MakeSpec, tiny_policy: Path) -> None:
    """SR-DPO: log-probability of a response with the instruction minus without it, by single-sequence forwards."""
    spec = make_spec(objective={"name": "sr-dpo", "instruction": "Be kind."}, rows=rows())
    model, tokenizer = load_policy(tiny_policy, dtype="float32", device="cpu"), load_tokenizer(tiny_policy)
    forward = PackedForward(model, 4096)
    spec.folder.mkdir()
    examples, _ = TrainingData.of(spec).examples(forward, lambda folder: forward, nullcontext, silent)
    for example in examples:
        group = example.group
        instructed_ids = encode_chat(tokenizer, [{"role": "user", "content": f"Be kind.\n\n{group.prompt_id}"}])
        for response, quality in zip(group.responses, example.labeled.responses["quality"], strict=True):
            sequences = [TokenSequence(prompt, response) for prompt in (instructed_ids, group.prompt_ids)]
            instructed, plain = (sequence_logprobs(model, [sequence], tokens=1)[0] for sequence in sequences)
            assert quality == pytest.approx(instructed - plain, abs=1e-3)


def test_hard_labels_skip_tied_pairs(make_spec: MakeSpec, tiny_policy: Path) -> None:
    tied = [row | ({"target": 0.0, "p_hat": 0.5} if number % 3 == 0 else {}) for number, row in enumerate(rows())]
    hard = run(make_spec("hard", objective={"name": "dpo"}, rows=tied))
    assert (hard.rows["pairs"], hard.rows["tied_pairs"]) == (12, 6)
    soft = run(make_spec("soft", objective={"name": "dpo", "labels": "soft"}, rows=tied))
    assert soft.rows["pairs"] == 18
    assert "tied_pairs" not in soft.rows


@pytest.mark.parametrize(
    ("objective", "fields", "message"),
    [
        ({"name": "rebel"}, {}, "rebel needs the scores"),
        ({"name": "sppo"}, {}, "sppo needs the votes"),
        ({"name": "lcpo"}, {}, "lcpo needs the votes"),
        ({"name": "rebel", "score_annotators": ["four"]}, {"scores": 1}, "there are none by four"),
        ({"name": "sppo"}, {"votes": 2, "round": 2}, "the votes of the label stage of round 1"),
        ({"name": "selm"}, {}, "selm needs a greedy response .* from the reference for each prompt"),
        ({"name": "xpo"}, {"extra": True}, "6 prompts have none"),
        ({"name": "ipo-md"}, {}, "these are from the policy"),
        ({"name": "ipo-md"}, {"mixture": 0.25}, "a mixture with share 0.25"),
        ({"name": "rpo", "embedder": "no/where/at/all"}, {}, "no such folder"),
    ],
)
def test_missing_data_is_refused_before_the_policy_is_read(
    objective: dict[str, Any],
    fields: dict[str, Any],
    message: str,
    make_spec: MakeSpec,
    label_stage: dict[str, dict[int, Path]],
    tmp_path: Path,
) -> None:
    """The policy folder does not exist. `fields` gives the round that a table is for."""
    inputs = {name: {value: label_stage[name][1]} if name in label_stage else value for name, value in fields.items()}
    if inputs.get("extra") is True:
        write_parquet(tmp_path / "extra" / "responses-0.parquet", table([], RESPONSES))
        inputs["extra"] = tmp_path / "extra"
    policy = Artifact(path=tmp_path / "none", digest="none")
    with pytest.raises(UserError, match=message) as refused:
        run(make_spec(objective=objective, rows=rows(), policy=policy, **inputs))
    assert refused.value.remedy


def test_extra_responses_are_part_of_no_pair(make_spec: MakeSpec, make_policy: MakePolicy, extra: Path) -> None:
    spec = spec_of("selm", make_spec, make_policy, extra=extra)
    groups = TrainingData.of(spec).groups
    assert [group.responses[-1].tolist() for group in groups] == [[40, 41, 2]] * 6
    assert all(pair.rejected < 3 and pair.chosen < 3 for group in groups for pair in group.pairs)
    manifest = run(spec)
    assert (manifest.rows["responses"], manifest.rows["pairs"]) == (18, 18)
    reference = read_parquet(spec.folder / "reference.parquet", REFERENCE)
    assert reference["response_index"].to_pylist().count(-1) == 6
