"""The label stage: reads responses; publishes scores, votes, preferences and statistics of the annotators."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Ints
from storage.errors import UserError
from storage.manifest import Manifest
from storage.schemas import PREFERENCES, SCORES, VOTES, parquet_writer, write_parquet
from storage.stage import Outcome, Progress, run_stage, silent
from tasks.cluster.scorers import scorers_on
from tasks.labeling.annotator_stats import annotator_stats
from tasks.labeling.length_penalty import without_length
from tasks.labeling.margin_filter import ScoreMarginFilter, keep_by_scores, keep_informative
from tasks.labeling.pairing import response_pairs
from tasks.labeling.preferences import LabelledPairs, make_preferences
from tasks.labeling.settings import LabelSpec, PreferenceSettings
from tasks.labeling.soft_votes import soft_votes
from tasks.labeling.summary import Agreement, AnnotatorStats, LabelSummary, Targets
from tasks.panel.active import vote_in_two_passes
from tasks.panel.annotators.human import HumanSettings
from tasks.panel.annotators.implicit_reward import ImplicitRewardSettings
from tasks.panel.annotators.protocol import Annotator, Response
from tasks.panel.annotators.registry import open_annotators
from tasks.panel.annotators.settings import Scorer, Temperature
from tasks.panel.humans.batch import batch_folder, export
from tasks.panel.humans.collect import collect
from tasks.panel.outages import stop_on_outage
from tasks.panel.parts import Parts, remove_parts
from tasks.panel.questions import PanelVotes, Questions, votes_by_outcome
from tasks.panel.responses import Responses, for_annotators, read_responses
from tasks.panel.voting import AnswerStore, drawing_seed, vote

SOURCE = "policy"
_BLOCK = 4096  # prompts whose pairs are listed at once


def run(spec: LabelSpec, progress: Progress = silent) -> Manifest:
    """Run or adopt the label stage; publishes Parquet files in `spec.folder`.

    Raises UserError for an empty panel, annotators that cannot be opened, unfinished responses, when no pair is left,
    with the counts by reason, and when an annotator is given up (unless `spec.on_outage` is go_on); WaitingForVotes
    while people on the panel have not voted enough.
    """
    manifest = run_stage(spec, lambda: _label(spec, progress))
    remove_parts(spec)
    return manifest


def _label(spec: LabelSpec, progress: Progress) -> Outcome:
    settings = spec.settings.preferences
    responses = read_responses(
        SOURCE, spec.responses.path, spec.prompts.path, reasoning_end=spec.settings.reasoning_end
    )
    comparisons = comparisons_of(responses, drop_truncated=settings.drop_truncated)
    panel_votes = _panel_votes(spec, for_annotators([responses]), comparisons, progress)
    outages = panel_votes.outages
    panel_votes, penalties = without_length(panel_votes, responses, comparisons, _levelled(spec))
    expanded = for_each_person(settings, panel_votes.votes)
    weights = expanded.weights | dict.fromkeys(expanded.prior_scores, 0.0)
    soft = soft_votes(panel_votes, comparisons, _temperatures(spec), weights, settings.min_votes)
    votes, scores = soft.votes, panel_votes.scores
    # Scores and votes are written even when the stage stops: their column `raw` shows what went wrong.
    paths = {name: spec.folder / f"{name}.parquet" for name in ("scores", "votes", "preferences", "counted_votes")}
    write_parquet(paths["scores"], scores)
    write_parquet(paths["votes"], votes)
    stop_on_outage(outages, spec.on_outage, setting="panel.on_outage", folder=spec.folder)
    temperatures = {name: each.temperature for name, each in soft.temperatures.items()}
    pairs = make_preferences(responses, votes, expanded, spec.round, scores, temperatures)
    if settings.keep is not None:
        pairs = _filtered(pairs, scores, settings.keep)
    if not len(pairs.labels):
        raise _no_pair_left(spec, pairs, votes, paths["votes"])
    with parquet_writer(paths["preferences"], PREFERENCES) as file:
        for block in pairs.blocks():
            file.write(block)
    write_parquet(paths["counted_votes"], pairs.counted)
    stats = annotator_stats(responses, votes, scores, pairs.labels, expanded.gold)
    for name, rows in (("annotators", stats.annotators), ("agreement", stats.agreement)):
        paths[name] = spec.folder / f"{name}.parquet"
        write_parquet(paths[name], rows)
    targets = Targets.of(pairs.labels, len(responses.prompt_ids))
    targets.report()
    summary = LabelSummary(
        responses=len(responses),
        comparisons=len(comparisons),
        votes=votes_by_outcome(votes),
        pairs=len(pairs.labels),
        dropped=pairs.dropped,
        mean_abs_target=float(pc.mean(pairs.labels["target"]).as_py()),
        targets=targets,
        annotators=[AnnotatorStats.model_validate(row) for row in stats.annotators.to_pylist()],
        agreement=[Agreement.model_validate(row) for row in stats.agreement.to_pylist()],
        learnt=pairs.estimates.with_length_penalties(penalties).with_temperatures(soft.temperatures),
    )
    counts = {"scores": len(scores), "votes": len(votes), "preferences": len(pairs.labels)}
    return Outcome(paths=list(paths.values()), rows=counts, summary=summary.as_json())


def _filtered(
    pairs: LabelledPairs, scores: pa.Table, keep: ScoreMarginFilter | Literal["informative"]
) -> LabelledPairs:
    """The pairs that `keep` keeps; the others are counted as dropped."""
    if isinstance(keep, ScoreMarginFilter):
        kept, left_out = keep_by_scores(pairs.labels, scores, keep)
        return replace(pairs, labels=kept, dropped=pairs.dropped | {"margin": left_out})
    kept, left_out = keep_informative(pairs.labels)
    return replace(pairs, labels=kept, dropped=pairs.dropped | {"uninformative": left_out})


def comparisons_of(responses: Responses, *, drop_truncated: bool) -> Ints:
    """[n, 2]: the numbers of the two responses of each pair that the panel compares. Pairs are of one prompt."""
    parts = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(responses.rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        pairs = response_pairs(responses, drop_truncated=drop_truncated, prompts=block)
        sides = [responses.rows[block][pairs.prompt, slot] for slot in (pairs.first, pairs.second)]
        parts.append(np.stack(sides, axis=1)[pairs.dropped == ""])
    return np.concatenate(parts)


def _panel_votes(spec: LabelSpec, responses: Sequence[Response], comparisons: Ints, progress: Progress) -> PanelVotes:
    """Scores and votes of the panel. People get their questions first, to vote while other annotators answer."""
    panel = spec.settings.annotators
    people = {name: settings for name, settings in panel.items() if isinstance(settings, HumanSettings)}
    questions = list(Questions(responses, comparisons).comparisons) if people else []
    for name, settings in people.items():
        export(settings, name, batch_folder(spec.folder, name), questions)
    others = {name: settings for name, settings in panel.items() if name not in people}
    panel_votes = PanelVotes(SCORES.empty_table(), VOTES.empty_table())
    if others or not people:
        policies = {name: policy.path for name, policy in spec.policies.items()}
        annotators = open_annotators(
            others,
            drawing_seed(spec),
            policies,
            trust_remote_code=spec.trust_remote_code,
            open_workers=scorers_on(spec.cluster, spec.folder),
        )

        def vote_on(some: Sequence[Annotator], pairs: Ints, group: str) -> PanelVotes:
            store = AnswerStore(Parts(spec, group), spec.answers or spec.folder / "answers")
            return vote(some, responses, pairs, store, progress, spec.budget)

        panel_votes = vote_in_two_passes(annotators, responses, comparisons, spec.active, vote_on)
    human_votes = [
        collect(settings, name, batch_folder(spec.folder, name), questions).rows(questions)
        for name, settings in people.items()
    ]
    return replace(panel_votes, votes=pa.concat_tables([panel_votes.votes, *human_votes]))


def _levelled(spec: LabelSpec) -> dict[str, float]:
    """Annotators with a length penalty that depends on the round's scores -> their tie margin."""
    return {
        name: settings.tie_margin
        for name, settings in spec.settings.annotators.items()
        if isinstance(settings, ImplicitRewardSettings) and settings.length_penalty == "level"
    }


def _temperatures(spec: LabelSpec) -> dict[str, Temperature]:
    """Annotators that cast soft votes by their scores -> their temperature."""
    scorers = {name: each for name, each in spec.settings.annotators.items() if isinstance(each, Scorer)}
    found = {name: each.vote_temperature() for name, each in scorers.items()}
    return {name: temperature for name, temperature in found.items() if temperature is not None}


def for_each_person(settings: PreferenceSettings, votes: pa.Table) -> PreferenceSettings:
    """Expand options given for a human group to each member who voted: people -> people/ann, ...

    Options for a person who did not vote are left out.
    """
    voters: list[str] = pc.unique(votes["annotator"]).to_pylist()

    def persons(name: str) -> list[str]:
        members = [voter for voter in voters if voter.startswith(f"{name}/")]
        return members or ([] if "/" in name and name not in voters else [name])

    return PreferenceSettings.model_validate(
        settings.model_dump()
        | {
            "gold": [person for name in settings.gold for person in persons(name)],
            "pinned": {person: value for name, value in settings.pinned.items() for person in persons(name)},
            "weights": {person: value for name, value in settings.weights.items() for person in persons(name)},
        }
    )


def _no_pair_left(spec: LabelSpec, pairs: LabelledPairs, votes: pa.Table, path: Path) -> UserError:
    outcomes = votes_by_outcome(votes)
    return UserError(
        f"no preference pair is left; pairs dropped by reason: {pairs.dropped}; votes: {outcomes}",
        where=str(spec.responses.path),
        remedy=_remedy(pairs.dropped, votes, path),
    )


def _remedy(dropped: dict[str, int], votes: pa.Table, path: Path) -> str:
    failed = votes.filter(pc.equal(votes["outcome"], "error"))
    if len(failed):
        return f"see the annotators' errors in the columns outcome and raw of {path} (and of scores.parquet)"
    if dropped.get("uninformative", 0):
        return (
            "the panel finds all responses to each prompt equally good: ask other annotators, or sample more responses"
        )
    if dropped.get("truncated", 0) > dropped.get("quorum", 0):
        return "raise sampling.max_tokens, or keep truncated responses: preferences.drop_truncated=false"
    if dropped.get("quorum", 0):
        return "lower preferences.quorum, or add annotators that do not abstain on these prompts"
    return "sample more than one response a prompt, at a temperature at which they differ"
