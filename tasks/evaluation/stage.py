"""The evaluate stage: metrics of one policy from files, and a few of its replies to read.

Publishes metrics.json (a `Metrics`; the same bytes every time the stage runs), samples.json and, in a run with held-out
pairs, the log-probabilities of their replies under the policy.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from storage.arrays import Floats, Ints
from storage.conversations import conversation_text
from storage.errors import UserError
from storage.files import canonical_json, publish_text
from storage.manifest import Manifest
from storage.schemas import PROMPTS, RESPONSES, SCORES, VOTES, read_parquet
from storage.stage import Outcome, Progress, run_stage, silent
from tasks.evaluation.divergence import NONE, Divergence, divergence, policy_logprobs
from tasks.evaluation.harness.stage import HarnessScores
from tasks.evaluation.intervals import Bootstrap, Interval
from tasks.evaluation.metrics import SAMPLES, Excluded, Metrics
from tasks.evaluation.movement import warn_of_movement
from tasks.evaluation.mt_bench.figures import MtBench, mt_bench
from tasks.evaluation.pairs import HeldoutPairs, pair_metrics, read_logprobs, read_pairs, write_logprobs
from tasks.evaluation.replies import reply_metrics
from tasks.evaluation.settings import EvaluateSpec
from tasks.evaluation.wins import (
    POLICY,
    Lengths,
    by_category,
    gaps,
    length_effects,
    mean_scores,
    win_rates,
)
from tasks.modeling.load import load_tokenizer
from tasks.modeling.logprobs import TokenSequence

log = logging.getLogger("irepo")

SAMPLE_LIMIT = 20  # replies to read
METRICS = "metrics.json"
RESPONSE_COLUMNS = ["prompt_id", "response_index", "prompt_ids", "response_ids", "text", "finish_reason"]


class Sample(BaseModel):
    """One reply and its prompt, with the chat template and without special tokens."""

    prompt_id: str
    prompt: str
    reply: str


def run(spec: EvaluateSpec, progress: Progress = silent) -> Manifest:
    """Run or adopt the evaluate stage.

    Raises BrokenManifest for an unfinished or altered input folder, UserError when there are no responses or an input
    was made again, and ValueError for an input file with unexpected content.
    """
    return run_stage(spec, lambda: _evaluate(spec, progress))


def _evaluate(spec: EvaluateSpec, progress: Progress) -> Outcome:
    generated, responses = _responses(spec)
    votes, scores = _judgements(spec)
    _warn_about_sampling(generated)
    draw = Bootstrap(spec.settings.bootstrap, spec.seed)
    wins, excluded_votes = win_rates(votes, draw)
    rates, excluded_scores = mean_scores(scores, draw)
    pairs = _pairs(spec)
    logprobs = _logprobs(spec, responses, pairs, progress)
    if spec.policy.digest != spec.initial.digest:
        warn_of_movement(logprobs.kl)
    reward, before = spec.settings.margin, _logprobs_before(spec, pairs)
    calibration = displacement = None
    if pairs is not None and reward is not None:
        calibration, displacement = pair_metrics(pairs, logprobs.of_pairs, before, reward, draw)
    metrics = Metrics(
        win_rate=wins,
        rates=rates,
        kl=logprobs.kl,
        tokens=float(np.mean(pc.list_value_length(responses["response_ids"]).to_numpy())),
        words=float(np.mean([len(text.as_py().split()) for text in responses["text"]])),
        finish_rate=float(np.mean(pc.equal(responses["finish_reason"], "stop").to_numpy())),
        unique_rate=pc.count_distinct(responses["text"]).as_py() / len(responses),
        replies=_reply_metrics(responses, draw),
        length=length_effects(votes, _lengths(spec, responses), draw),
        gap=gaps(votes, spec.settings.truth, draw) if spec.settings.truth else {},
        categories=by_category(votes, scores, _categories(spec, responses), draw),
        calibration=calibration,
        displacement=displacement,
        excluded=Excluded(votes=excluded_votes, scores=excluded_scores),
        harness=_harness(spec),
        mt_bench=_mt_bench(spec, draw),
    )
    samples = [sample.model_dump() for sample in _samples(responses, spec)]
    summary = metrics.model_dump(mode="json")
    paths = [spec.folder / METRICS, spec.folder / SAMPLES]
    publish_text(paths[0], canonical_json(summary) + "\n")
    publish_text(paths[1], canonical_json(samples) + "\n")
    if pairs is not None:
        paths.append(write_logprobs(spec.folder, pairs, logprobs.of_pairs))
    prompts = pc.count_distinct(responses["prompt_id"]).as_py()
    rows = {"prompts": prompts, "responses": len(responses), "votes": votes.num_rows}
    return Outcome(paths=paths, rows=rows, summary=summary)


def _responses(spec: EvaluateSpec) -> tuple[Manifest, pa.Table]:
    manifest = spec.responses.manifest()
    files = _parquet(spec.responses.path, manifest)
    if not files or not (responses := read_parquet(files, RESPONSES, RESPONSE_COLUMNS)).num_rows:
        raise UserError(
            "there are no responses to evaluate",
            where=str(spec.responses.path),
            remedy="give prompts.heldout at least one prompt",
        )
    return manifest, responses


def _harness(spec: EvaluateSpec) -> HarnessScores | None:
    if spec.harness is None:
        return None
    return HarnessScores.model_validate(spec.harness.manifest().summary)


def _mt_bench(spec: EvaluateSpec, draw: Bootstrap) -> MtBench | None:
    if spec.mt_bench is None:
        return None
    return mt_bench(spec.mt_bench.path, spec.mt_bench.manifest(), draw)


def _parquet(folder: Path, manifest: Manifest) -> list[Path]:
    return [folder / entry.path for entry in manifest.files if entry.path.endswith(".parquet")]


def _judgements(spec: EvaluateSpec) -> tuple[pa.Table, pa.Table]:
    """Votes and scores; empty when the judge stage did not write them (round 0 has no rivals)."""
    manifest = spec.judgements.manifest()
    names = ["prompt_id", "source_a", "index_a", "source_b", "index_b", "annotator", "outcome"]
    votes = _read(spec, manifest, "votes.parquet", VOTES, names)
    if unexpected := set(votes["source_a"].to_pylist()) - {POLICY}:
        raise ValueError(
            f"{spec.judgements.path / 'votes.parquet'}: source_a is {sorted(unexpected)}, expected {POLICY!r}"
        )
    names = ["prompt_id", "source", "annotator", "outcome", "score"]
    return votes, _read(spec, manifest, "scores.parquet", SCORES, names)


def _read(spec: EvaluateSpec, manifest: Manifest, name: str, schema: pa.Schema, columns: list[str]) -> pa.Table:
    if name not in {entry.path for entry in manifest.files}:
        return pa.schema([schema.field(column) for column in columns]).empty_table()
    return read_parquet(spec.judgements.path / name, schema, columns)


def _reply_metrics(responses: pa.Table, draw: Bootstrap) -> dict[str, Interval]:
    return reply_metrics(
        responses["text"].to_pylist(),
        [len(reply) for reply in responses["response_ids"].to_pylist()],
        [reason == "stop" for reason in responses["finish_reason"].to_pylist()],
        responses["prompt_id"].to_pylist(),
        draw,
    )


def _lengths(spec: EvaluateSpec, responses: pa.Table) -> Lengths:
    """Characters of every reply of the policy and its rivals."""
    tables = {POLICY: responses}
    for name, rival in spec.rivals.items():
        files = _parquet(rival.path, rival.manifest())
        tables[name] = read_parquet(files, RESPONSES, ["prompt_id", "response_index", "text"])
    return {
        (source, prompt, index): len(text)
        for source, table in tables.items()
        for prompt, index, text in zip(
            *(table[column].to_pylist() for column in ("prompt_id", "response_index", "text")), strict=True
        )
    }


def _categories(spec: EvaluateSpec, responses: pa.Table) -> dict[str, str | None]:
    """The category of each answered prompt."""
    if spec.prompts is None:
        return {}
    prompts = read_parquet(spec.prompts.path, PROMPTS, ["prompt_id", "category"])
    answered = set(responses["prompt_id"].to_pylist())
    rows = zip(prompts["prompt_id"].to_pylist(), prompts["category"].to_pylist(), strict=True)
    return {prompt: category for prompt, category in rows if prompt in answered}


def _pairs(spec: EvaluateSpec) -> HeldoutPairs | None:
    if spec.pairs is None:
        return None
    spec.pairs.manifest()
    return read_pairs(spec.pairs.path)


def _logprobs_before(spec: EvaluateSpec, pairs: HeldoutPairs | None) -> dict[str, Floats]:
    """Log-probabilities of the pairs' replies under earlier policies."""
    if pairs is None:
        return {}
    return {
        name: read_logprobs(evaluation.manifest(), evaluation.path, pairs)
        for name, evaluation in spec.evaluations.items()
    }


class _Logprobs(NamedTuple):
    kl: Divergence
    of_pairs: Floats  # log-probabilities of the replies in held-out pairs under the policy, [m]


def _logprobs(spec: EvaluateSpec, responses: pa.Table, pairs: HeldoutPairs | None, progress: Progress) -> _Logprobs:
    """The policy's replies under both policies, and the pairs' replies under the policy. Loads each policy once."""
    same = spec.policy.digest == spec.initial.digest
    prompts, replies = _token_ids(responses["prompt_ids"]), _token_ids(responses["response_ids"])
    own = [TokenSequence(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
    others = list(pairs.replies.values()) if pairs else []
    sequences = others if same else own + others
    if not sequences:
        return _Logprobs(NONE, np.zeros(0))
    total = len(sequences) if same else len(sequences) + len(own)
    now = policy_logprobs(
        sequences,
        policy=spec.policy.path,
        settings=spec.settings,
        progress=lambda done, _, unit: progress(done, total, unit),
    )
    if same:
        return _Logprobs(NONE, now)
    start = policy_logprobs(
        own, policy=spec.initial.path, settings=spec.settings,
        progress=lambda done, _, unit: progress(len(sequences) + done, total, unit),
    )  # fmt: skip
    ratios = now[: len(own)] - start
    kl = divergence(ratios, [len(reply) for reply in replies], responses["prompt_id"].to_pylist())
    return _Logprobs(kl, now[len(own) :])


def _warn_about_sampling(generated: Manifest) -> None:
    """Warn when replies are not drawn from pi itself, because kl is not the divergence of pi then."""
    sampling = generated.settings.get("sampling", {})
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    changed = {name: sampling[name] for name, value in plain.items() if sampling.get(name, value) != value}
    if changed:
        words = ", ".join(f"{name} {value}" for name, value in changed.items())
        log.warning("held-out replies are sampled with %s: kl is the mean over these, not the policy's", words)


def _samples(responses: pa.Table, spec: EvaluateSpec) -> list[Sample]:
    """The first reply to every k-th prompt, with the smallest k that gives at most SAMPLE_LIMIT replies."""
    first: dict[str, tuple[int, int]] = {}  # prompt -> the lowest index of a reply, and its row
    names, indices = (responses[name].to_pylist() for name in ("prompt_id", "response_index"))
    for row, (prompt_id, index) in enumerate(zip(names, indices, strict=True)):
        if prompt_id not in first or index < first[prompt_id][0]:
            first[prompt_id] = (index, row)
    step = -(-len(first) // SAMPLE_LIMIT)
    shown = responses.take([row for _, row in list(first.values())[::step]]).select(["prompt_id", "prompt_ids", "text"])
    rows = list(zip(*shown.to_pydict().values(), strict=True))
    prompts = _prompt_texts(spec, {prompt_id: ids for prompt_id, ids, _ in rows})
    return [Sample(prompt_id=prompt_id, prompt=prompts[prompt_id], reply=text) for prompt_id, _, text in rows]


def _prompt_texts(spec: EvaluateSpec, token_ids: Mapping[str, list[int]]) -> dict[str, str]:
    """The conversation of each prompt in `token_ids`; without a file of prompts, what its token ids say."""
    if spec.prompts is not None:
        prompts = read_parquet(spec.prompts.path, PROMPTS, ["prompt_id", "messages"]).to_pylist()
        return {
            row["prompt_id"]: conversation_text(row["messages"]) for row in prompts if row["prompt_id"] in token_ids
        }
    tokenizer = load_tokenizer(spec.policy.path, trust_remote_code=spec.settings.trust_remote_code)
    return {prompt: str(tokenizer.decode(ids, skip_special_tokens=True)) for prompt, ids in token_ids.items()}


def _token_ids(column: pa.ChunkedArray) -> list[Ints]:
    """The ids of each row, as a view of the column."""
    rows = column.combine_chunks()
    return np.split(rows.flatten().to_numpy(), np.cumsum(pc.list_value_length(rows).to_numpy())[:-1])
