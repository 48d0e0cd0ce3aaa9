"""The evaluate stage: figures of one policy from files, and a few of its replies to read.

    python -m tasks.evaluation runs/demo/round-01/evaluate/spec.yaml

Publishes metrics.json (a `Metrics`; the same bytes whenever the stage is run again), samples.json and, where the run
has held-out pairs, their replies' log-probabilities under the policy.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from storage.errors import UserError
from storage.files import canonical_json, publish_text
from storage.manifest import Manifest, read_manifest
from storage.schemas import PROMPTS, RESPONSES, SCORES, VOTES, read_parquet
from storage.stage import Outcome, Progress, run_stage, silent
from tasks.evaluation.calibration import Calibration, Displacement
from tasks.evaluation.divergence import NONE, Divergence, divergence, policy_logprobs
from tasks.evaluation.harness.stage import HarnessScores
from tasks.evaluation.intervals import Interval
from tasks.evaluation.length import LengthEffect
from tasks.evaluation.mt_bench.figures import MtBench, mt_bench
from tasks.evaluation.pairs import HeldoutPairs, pair_figures, read_logprobs, read_pairs, write_logprobs
from tasks.evaluation.replies import reply_figures
from tasks.evaluation.settings import EvaluateSpec
from tasks.evaluation.wins import (
    POLICY,
    Category,
    Drawing,
    Gap,
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
    replies: dict[str, Interval]  # length, diversity and finish rate, with intervals: see tasks.evaluation.replies
    length: dict[str, dict[str, LengthEffect]]  # [source][judge]: how much of a win rate is length
    gap: dict[str, dict[str, Gap]]  # [source][judge]: judges beside the one that is the truth
    categories: dict[str, Category]  # {} unless prompts have at least two categories
    calibration: Calibration | None  # of the implicit reward, on held-out pairs
    displacement: Displacement | None  # of log-probabilities, on held-out pairs
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
    votes, scores = _judgements(spec)
    _warn_of_tempered_replies(generated)
    draw = Drawing(spec.settings.bootstrap, spec.seed)
    rates_of_wins, without_winner = win_rates(votes, draw)
    rates, without_score = mean_scores(scores, draw)
    pairs = _pairs(spec)
    logprobs = _logprobs(spec, responses, pairs, progress)
    margin, before = spec.settings.margin, _logprobs_before(spec, pairs)
    calibrated = displaced = None
    if pairs is not None and margin is not None:
        calibrated, displaced = pair_figures(pairs, logprobs.of_pairs, before, margin, draw)
    metrics = Metrics(
        win_rate=rates_of_wins,
        rates=rates,
        kl=logprobs.kl,
        tokens=float(np.mean(pc.list_value_length(responses["response_ids"]).to_numpy())),
        words=float(np.mean([len(text.as_py().split()) for text in responses["text"]])),
        finish_rate=float(np.mean(pc.equal(responses["finish_reason"], "stop").to_numpy())),
        unique_rate=pc.count_distinct(responses["text"]).as_py() / len(responses),
        replies=_reply_figures(responses, draw),
        length=length_effects(votes, _lengths(spec, responses), draw),
        gap=gaps(votes, spec.settings.truth, draw) if spec.settings.truth else {},
        categories=by_category(votes, scores, _categories(spec, responses), draw),
        calibration=calibrated,
        displacement=displaced,
        excluded=Excluded(votes=without_winner, scores=without_score),
        harness=_harness(spec),
        mt_bench=_mt_bench(spec),
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
    files = _parquet(spec.responses, manifest)
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


def _parquet(folder: Path, manifest: Manifest) -> list[Path]:
    return [folder / entry.path for entry in manifest.files if entry.path.endswith(".parquet")]


def _judgements(spec: EvaluateSpec) -> tuple[pa.Table, pa.Table]:
    """Votes and scores; empty when the stage did not write them (round 0 compares with nobody)."""
    judged = _read_input(spec.judgements, spec.inputs.get("judgements"))
    names = ["prompt_id", "source_a", "index_a", "source_b", "index_b", "annotator", "outcome"]
    votes = _judged(spec, judged, "votes.parquet", VOTES, names)
    if strangers := set(votes["source_a"].to_pylist()) - {POLICY}:
        raise ValueError(f"{spec.judgements / 'votes.parquet'}: source_a is {sorted(strangers)}, expected {POLICY!r}")
    names = ["prompt_id", "source", "annotator", "outcome", "score"]
    return votes, _judged(spec, judged, "scores.parquet", SCORES, names)


def _judged(spec: EvaluateSpec, judged: Manifest, name: str, schema: pa.Schema, columns: list[str]) -> pa.Table:
    if name not in {entry.path for entry in judged.files}:
        return pa.schema([schema.field(column) for column in columns]).empty_table()
    return read_parquet(spec.judgements / name, schema, columns)


def _reply_figures(responses: pa.Table, draw: Drawing) -> dict[str, Interval]:
    return reply_figures(
        responses["text"].to_pylist(),
        [len(reply) for reply in responses["response_ids"].to_pylist()],
        [reason == "stop" for reason in responses["finish_reason"].to_pylist()],
        responses["prompt_id"].to_pylist(),
        resamples=draw.resamples,
        seed=draw.seed,
    )


def _lengths(spec: EvaluateSpec, responses: pa.Table) -> Lengths:
    """Characters of every reply, the policy's and its rivals'."""
    tables = {POLICY: responses}
    for name, folder in spec.rivals.items():
        manifest = _read_input(folder, spec.inputs.get(f"responses:{name}"))
        tables[name] = read_parquet(_parquet(folder, manifest), RESPONSES, ["prompt_id", "response_index", "text"])
    return {
        (source, prompt, index): len(text)
        for source, table in tables.items()
        for prompt, index, text in zip(
            *(table[column].to_pylist() for column in ("prompt_id", "response_index", "text")), strict=True
        )
    }


def _categories(spec: EvaluateSpec, responses: pa.Table) -> dict[str, str | None]:
    """Of each prompt that was answered."""
    if spec.prompts is None:
        return {}
    prompts = read_parquet(spec.prompts, PROMPTS, ["prompt_id", "category"])
    answered = set(responses["prompt_id"].to_pylist())
    rows = zip(prompts["prompt_id"].to_pylist(), prompts["category"].to_pylist(), strict=True)
    return {prompt: category for prompt, category in rows if prompt in answered}


def _pairs(spec: EvaluateSpec) -> HeldoutPairs | None:
    if spec.pairs is None:
        return None
    _read_input(spec.pairs, spec.inputs.get("pairs"))
    return read_pairs(spec.pairs)


def _logprobs_before(spec: EvaluateSpec, pairs: HeldoutPairs | None) -> dict[str, np.ndarray]:
    if pairs is None:
        return {}
    return {
        name: read_logprobs(_read_input(folder, spec.inputs.get(f"evaluation:{name}")), folder, pairs)
        for name, folder in spec.evaluations.items()
    }


class _Logprobs(NamedTuple):
    kl: Divergence
    of_pairs: np.ndarray  # of the replies in held-out pairs under the policy, [m]


def _logprobs(spec: EvaluateSpec, responses: pa.Table, pairs: HeldoutPairs | None, progress: Progress) -> _Logprobs:
    """Own replies under both policies, and those of the pairs under the policy; each policy is loaded once."""
    try:
        same = spec.inputs["policy"] == spec.inputs["initial"]
    except KeyError as missing:
        raise UserError(
            f"the digest of {missing} is not among the inputs",
            where=str(spec.folder / "spec.yaml"),
            remedy="give `inputs` the digests of both policies: policy and initial",
        ) from None
    prompts, replies = _token_ids(responses["prompt_ids"]), _token_ids(responses["response_ids"])
    own = [TokenSequence(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]
    others = list(pairs.replies.values()) if pairs else []
    asked = others if same else own + others
    if not asked:
        return _Logprobs(NONE, np.zeros(0))
    total = len(asked) if same else len(asked) + len(own)
    now = policy_logprobs(
        asked, policy=spec.policy, settings=spec.settings, progress=lambda done, _, unit: progress(done, total, unit)
    )
    if same:
        return _Logprobs(NONE, now)
    start = policy_logprobs(
        own, policy=spec.initial, settings=spec.settings,
        progress=lambda done, _, unit: progress(len(asked) + done, total, unit),
    )  # fmt: skip
    ratios = now[: len(own)] - start
    kl = divergence(ratios, [len(reply) for reply in replies], responses["prompt_id"].to_pylist())
    return _Logprobs(kl, now[len(own) :])


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
    first: dict[str, tuple[int, int]] = {}  # prompt: the lowest index of a reply, and its row
    names, indices = (responses[name].to_pylist() for name in ("prompt_id", "response_index"))
    for row, (prompt_id, index) in enumerate(zip(names, indices, strict=True)):
        if prompt_id not in first or index < first[prompt_id][0]:
            first[prompt_id] = (index, row)
    step = -(-len(first) // SAMPLE_LIMIT)
    shown = responses.take([row for _, row in list(first.values())[::step]]).select(["prompt_id", "prompt_ids", "text"])
    return [
        Sample(prompt_id=prompt_id, prompt=str(tokenizer.decode(ids, skip_special_tokens=True)), reply=text)
        for prompt_id, ids, text in zip(*shown.to_pydict().values(), strict=True)
    ]


def _token_ids(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Each row's ids, as a view of the column."""
    rows = column.combine_chunks()
    return np.split(rows.flatten().to_numpy(), np.cumsum(pc.list_value_length(rows).to_numpy())[:-1])
