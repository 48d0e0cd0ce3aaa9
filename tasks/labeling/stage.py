"""The label stage: responses in; scores, votes and preferences out.

Command: python -m tasks.labeling <folder>/spec.yaml
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import UserError
from storage.files import digest
from storage.manifest import Manifest
from storage.schemas import write_parquet
from storage.stage import Outcome, Progress, Spec, run_stage, silent
from tasks.labeling.annotators.registry import open_annotators
from tasks.labeling.candidates import read_candidates
from tasks.labeling.observe import observe
from tasks.labeling.panel import Keeping, vote
from tasks.labeling.parts import Parts, remove_parts
from tasks.labeling.preferences import candidate_pairs, make_preferences
from tasks.labeling.settings import LabelSpec

SOURCE = "policy"


def run(spec: LabelSpec, progress: Progress = silent) -> Manifest:
    """Label the responses of `spec.responses`; publishes scores, votes and preferences (.parquet) in `spec.folder`.

    Raises UserError for an empty panel, annotators that cannot be opened, unfinished responses, and when no pair is
    left, with the counts by reason.
    """
    manifest = run_stage(spec, lambda: _label(spec, progress))
    remove_parts(spec)
    return manifest


def _label(spec: LabelSpec, progress: Progress) -> Outcome:
    settings = spec.settings
    candidates = read_candidates(SOURCE, spec.responses, spec.prompts)
    pairs = candidate_pairs(candidates, drop_truncated=settings.preferences.drop_truncated)
    shown = pairs.dropped == ""
    comparisons = np.stack(
        [candidates.rows[pairs.prompt, pairs.first], candidates.rows[pairs.prompt, pairs.second]], axis=1
    )[shown]
    annotators = open_annotators(settings.annotators, drawing_seed(spec), spec.policies)
    keeping = Keeping(Parts(spec, "panel"), spec.answers or spec.folder / "answers")
    ballot = vote(annotators, candidates.for_annotators(), comparisons, keeping, progress, spec.budget)
    preferences = make_preferences(candidates, ballot.votes, settings.preferences, spec.round, ballot.scores)
    outcomes = votes_by_outcome(ballot.votes)
    # Votes are kept even when nothing follows from them: the raw column says what went wrong.
    paths = {name: spec.folder / f"{name}.parquet" for name in ("scores", "votes", "preferences")}
    write_parquet(paths["scores"], ballot.scores)
    write_parquet(paths["votes"], ballot.votes)
    if not len(preferences.table):
        raise UserError(
            f"no preference pair is left; pairs dropped by reason: {preferences.dropped}; votes: {outcomes}",
            where=str(spec.responses),
            remedy=_remedy(preferences.dropped, ballot.votes, str(paths["votes"])),
        )
    write_parquet(paths["preferences"], preferences.table)
    seen = observe(candidates, ballot.votes, ballot.scores, preferences.table, settings.preferences.gold)
    for name, observed in (("annotators", seen.annotators), ("agreement", seen.agreement)):
        paths[name] = spec.folder / f"{name}.parquet"
        write_parquet(paths[name], observed)
    return Outcome(
        paths=list(paths.values()),
        rows={"scores": len(ballot.scores), "votes": len(ballot.votes), "preferences": len(preferences.table)},
        summary={
            "responses": len(candidates.responses),
            "comparisons": len(comparisons),
            "votes": outcomes,
            "pairs": len(preferences.table),
            "dropped": preferences.dropped,
            "mean_abs_target": float(pc.mean(preferences.table["target"]).as_py()),
            "annotators": seen.annotators.to_pylist(),
            "agreement": seen.agreement.to_pylist(),
            "learnt": preferences.learnt,
        },
    )


def drawing_seed(spec: Spec) -> int:
    """The seed of annotators that draw: differs between stages and rounds that share a seed."""
    return int(digest([spec.stage, spec.round, spec.seed])[:16], 16)


def votes_by_outcome(votes: pa.Table) -> dict[str, dict[str, int]]:
    """{annotator: {outcome: count}}, in the panel's order."""
    counts: dict[str, Counter[str]] = {}
    for row in votes.group_by(["annotator", "outcome"], use_threads=False).aggregate([([], "count_all")]).to_pylist():
        counts.setdefault(row["annotator"], Counter())[row["outcome"]] = row["count_all"]
    return {annotator: dict(sorted(count.items())) for annotator, count in counts.items()}


def _remedy(dropped: dict[str, int], votes: pa.Table, votes_path: str) -> str:
    failed = votes.filter(pc.equal(votes["outcome"], "error"))
    if len(failed):
        return f"see the annotators' errors in the columns outcome and raw of {votes_path} (and of scores.parquet)"
    if dropped.get("truncated", 0) > dropped.get("quorum", 0):
        return "raise sampling.max_tokens, or keep cut responses: preferences.drop_truncated=false"
    if dropped.get("quorum", 0):
        return "lower preferences.quorum, or add annotators that do not abstain on these prompts"
    return "sample more than one response a prompt, at a temperature at which they differ"
