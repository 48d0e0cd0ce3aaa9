"""The evaluate stage: figures of one policy from files, and a few of its replies to read.

    python -m tasks.evaluation runs/demo/round-01/evaluate/spec.yaml

Publishes metrics.json (a `Metrics`; the same bytes whenever the stage is run again) and samples.json.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from storage.errors import UserError
from storage.files import canonical_json, publish_text
from storage.manifest import Manifest, read_manifest
from storage.schemas import RESPONSES, SCORES, VOTES, read_parquet
from storage.stage import Outcome, Progress, run_stage, silent
from tasks.evaluation.divergence import NONE, Divergence, divergence, log_ratios
from tasks.evaluation.harness.stage import HarnessScores
from tasks.evaluation.intervals import Interval, bootstrap_mean, excluded, win_rate
from tasks.evaluation.mt_bench import MtBench, mt_bench
from tasks.evaluation.settings import EvaluateSpec
from tasks.modeling.load import load_tokenizer
from tasks.modeling.logprobs import TokenSequence

log = logging.getLogger("irepo")

POLICY = "policy"  # the judge stage's name for the policy under evaluation: source_a of votes, source of its scores
SAMPLE_LIMIT = 20  # replies to read
METRICS, SAMPLES = "metrics.json", "samples.json"
RESPONSE_COLUMNS = ["prompt_id", "response_index", "prompt_ids", "response_ids", "text", "finish_reason"]


class Excluded(BaseModel):
    """What took no part in a mean, by reason (abstain, error)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    votes: dict[str, dict[str, dict[str, int]]]  # [source][judge][reason]
    scores: dict[str, dict[str, int]]  # [annotator][reason]


class Metrics(BaseModel):
    """The figures of one evaluation. A judge or annotator none of whose outcomes counts is in `excluded` only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    win_rate: dict[str, dict[str, Interval]]  # [source][judge]: how often the policy's reply beats the source's
    rates: dict[str, Interval]  # [annotator]: mean score of the policy's replies
    kl: Divergence  # from the initial policy, nats
    tokens: float  # mean reply length, the end token included
    words: float  # mean reply length, split at white space
    finish_rate: float  # share of replies that ended by themselves
    unique_rate: float  # distinct reply texts / replies, over all prompts: falls when the policy collapses
    excluded: Excluded
    harness: HarnessScores | None = None  # of lm-eval's tasks; left out where none was asked
    mt_bench: MtBench | None = None  # left out where nobody graded

    @model_serializer(mode="wrap")
    def _asked_only(self, said: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Evaluations without benchmarks have the bytes that they had before there were any."""
        figures: dict[str, Any] = said(self)
        unasked = [name for name in ("harness", "mt_bench") if figures[name] is None]
        return {name: value for name, value in figures.items() if name not in unasked}


class Sample(BaseModel):
    """One reply, and the prompt as the policy saw it, chat template included, special tokens left out."""

    prompt_id: str
    prompt: str
    reply: str


def run(spec: EvaluateSpec, progress: Progress = silent) -> Manifest:
    """Evaluate one round.

    Raises BrokenManifest when an input folder is unfinished or altered, UserError when there is nothing to evaluate or
    `inputs` does not name both policies, ValueError when a file does not hold what the stage before it promises.
    """
    return run_stage(spec, lambda: _evaluate(spec, progress))


def _evaluate(spec: EvaluateSpec, progress: Progress) -> Outcome:
    generated, responses = _responses(spec)
    judged = _read_input(spec.judgements, spec.inputs.get("judgements"))
    votes = _judgements(
        spec, judged, "votes.parquet", VOTES, ["prompt_id", "source_a", "source_b", "annotator", "outcome"]
    )
    scores = _judgements(
        spec, judged, "scores.parquet", SCORES, ["prompt_id", "source", "annotator", "outcome", "score"]
    )
    _warn_of_tempered_replies(generated)
    win_rates, without_winner = _win_rates(votes, spec)
    rates, without_score = _rates(scores, spec)
    texts: list[str] = responses["text"].to_pylist()
    metrics = Metrics(
        win_rate=win_rates,
        rates=rates,
        kl=_divergence(responses, spec, progress),
        tokens=_mean(responses["response_ids"], len),
        words=_mean(responses["text"], lambda text: len(text.split())),
        finish_rate=_mean(responses["finish_reason"], lambda reason: reason == "stop"),
        unique_rate=len(set(texts)) / len(texts),
        excluded=Excluded(votes=without_winner, scores=without_score),
        harness=_harness(spec),
        mt_bench=_mt_bench(spec),
    )
    samples = [sample.model_dump() for sample in _samples(responses, spec)]
    summary = metrics.model_dump(mode="json")
    publish_text(spec.folder / METRICS, canonical_json(summary) + "\n")
    publish_text(spec.folder / SAMPLES, canonical_json(samples) + "\n")
    rows = {"prompts": len(set(responses["prompt_id"].to_pylist())), "responses": len(texts), "votes": votes.num_rows}
    return Outcome(paths=[spec.folder / METRICS, spec.folder / SAMPLES], rows=rows, summary=summary)


def _read_input(folder: Path, promised: str | None) -> Manifest:
    """The manifest of an input stage. Raises UserError when it is whole, but not what `inputs` was keyed by."""
    manifest = read_manifest(folder)
    if promised is not None and manifest.content != promised:
        raise UserError(
            "this is not what the evaluation was asked to read: its content has another digest than `inputs` says",
            where=str(folder),
            remedy="start the run again: it brings the spec and its inputs together",
        )
    return manifest


def _responses(spec: EvaluateSpec) -> tuple[Manifest, pa.Table]:
    manifest = _read_input(spec.responses, spec.inputs.get("responses"))
    files = [spec.responses / entry.path for entry in manifest.files if entry.path.endswith(".parquet")]
    if not files or not (responses := read_parquet(files, RESPONSES, RESPONSE_COLUMNS)).num_rows:
        raise UserError(
            "there are no responses to evaluate",
            where=str(spec.responses),
            remedy="give prompts.heldout at least one prompt",
        )
    return manifest, responses


def _harness(spec: EvaluateSpec) -> HarnessScores | None:
    if spec.harness is None:
        return None
    return HarnessScores.model_validate(_read_input(spec.harness, spec.inputs.get("harness")).summary)


def _mt_bench(spec: EvaluateSpec) -> MtBench | None:
    if spec.mt_bench is None:
        return None
    graded = _read_input(spec.mt_bench, spec.inputs.get("mt_bench"))
    return mt_bench(spec.mt_bench, graded, resamples=spec.settings.bootstrap, seed=spec.seed)


def _judgements(spec: EvaluateSpec, judged: Manifest, name: str, schema: pa.Schema, columns: list[str]) -> pa.Table:
    """File `name` of the judge stage; empty when the stage did not write one (round 0 compares with nobody)."""
    if name not in {entry.path for entry in judged.files}:
        return pa.schema([schema.field(column) for column in columns]).empty_table()
    return read_parquet(spec.judgements / name, schema, columns)


def _grouped(
    table: pa.Table, by: Sequence[str], columns: Sequence[str]
) -> dict[tuple[str, ...], list[tuple[Any, ...]]]:
    """Rows of `columns` by the values of `by`, groups sorted by those values, rows in file order."""
    groups = defaultdict(list)
    keys = zip(*(table[name].to_pylist() for name in by), strict=True)
    for key, row in zip(keys, zip(*(table[name].to_pylist() for name in columns), strict=True), strict=True):
        groups[key].append(row)
    return dict(sorted(groups.items()))


def _win_rates(
    votes: pa.Table, spec: EvaluateSpec
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, dict[str, int]]]]:
    """Win rates [source][judge] of the policy, and what did not count."""
    strangers = set(votes["source_a"].to_pylist()) - {POLICY}
    if strangers:
        raise ValueError(f"{spec.judgements / 'votes.parquet'}: source_a is {sorted(strangers)}, expected {POLICY!r}")
    rates: dict[str, dict[str, Interval]] = {}
    left_out: dict[str, dict[str, dict[str, int]]] = {}
    for (source, judge), rows in _grouped(votes, ("source_b", "annotator"), ("outcome", "prompt_id")).items():
        outcomes, prompts = zip(*rows, strict=True)
        rates.setdefault(source, {})
        left_out.setdefault(source, {})[judge] = excluded(outcomes)
        rate = win_rate(outcomes, prompts, resamples=spec.settings.bootstrap, seed=spec.seed)
        if rate is not None:
            rates[source][judge] = rate
    return rates, left_out


def _rates(scores: pa.Table, spec: EvaluateSpec) -> tuple[dict[str, Interval], dict[str, dict[str, int]]]:
    """Mean score [annotator] of the policy's replies, and what did not count."""
    rates: dict[str, Interval] = {}
    left_out: dict[str, dict[str, int]] = {}
    groups = _grouped(scores, ("source", "annotator"), ("outcome", "score", "prompt_id"))
    for (source, annotator), rows in groups.items():
        if source != POLICY:
            continue
        left_out[annotator] = excluded([outcome for outcome, _, _ in rows])
        scored = [(score, prompt) for outcome, score, prompt in rows if outcome == "score"]
        if scored:
            values, prompts = zip(*scored, strict=True)
            rates[annotator] = bootstrap_mean(values, prompts, resamples=spec.settings.bootstrap, seed=spec.seed)
    return rates, left_out


def _divergence(responses: pa.Table, spec: EvaluateSpec, progress: Progress) -> Divergence:
    try:
        same = spec.inputs["policy"] == spec.inputs["initial"]
    except KeyError as missing:
        raise UserError(
            f"the digest of {missing} is not among the inputs",
            where=str(spec.folder / "spec.yaml"),
            remedy="give `inputs` the digests of both policies: policy and initial",
        ) from None
    if same:
        return NONE
    prompts, replies = responses["prompt_ids"].to_pylist(), responses["response_ids"].to_pylist()
    ratios = log_ratios(
        [TokenSequence(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)],
        policy=spec.policy,
        initial=spec.initial,
        settings=spec.settings,
        progress=progress,
    )
    return divergence(ratios, [len(reply) for reply in replies], responses["prompt_id"].to_pylist())


def _warn_of_tempered_replies(generated: Manifest) -> None:
    """The divergence is that of pi only where replies were drawn from pi itself."""
    sampling = generated.settings.get("sampling", {})
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    changed = {name: sampling[name] for name, value in plain.items() if sampling.get(name, value) != value}
    if changed:
        log.warning("held-out replies were sampled with %s: kl is over those, not over the policy's own", changed)


def _samples(responses: pa.Table, spec: EvaluateSpec) -> list[Sample]:
    """The first reply to every k-th prompt, k such that there are at most SAMPLE_LIMIT. Nobody picks."""
    tokenizer = load_tokenizer(spec.policy, trust_remote_code=spec.settings.trust_remote_code)
    columns = ("prompt_id", "response_index", "prompt_ids", "text")
    rows = zip(*(responses[name].to_pylist() for name in columns), strict=True)
    first: dict[str, tuple[int, list[int], str]] = {}
    for prompt_id, index, prompt_ids, text in rows:
        if prompt_id not in first or index < first[prompt_id][0]:
            first[prompt_id] = (index, prompt_ids, text)
    step = -(-len(first) // SAMPLE_LIMIT)
    return [
        Sample(prompt_id=prompt_id, prompt=str(tokenizer.decode(prompt_ids, skip_special_tokens=True)), reply=text)
        for prompt_id, (_, prompt_ids, text) in list(first.items())[::step]
    ]


def _mean(column: pa.ChunkedArray, measure: Callable[[Any], float]) -> float:
    return float(np.mean([measure(value) for value in column.to_pylist()]))
