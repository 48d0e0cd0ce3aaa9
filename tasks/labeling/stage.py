"""The label stage: responses in; scores, votes and preferences out.

Command: python -m tasks.labeling <folder>/spec.yaml
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.arrays import Ints
from storage.errors import UserError
from storage.manifest import Manifest
from storage.schemas import PREFERENCES, SCORES, VOTES, parquet_writer, write_parquet
from storage.stage import Outcome, Progress, run_stage, silent
from tasks.labeling.annotator_stats import observe
from tasks.labeling.length_penalty import without_length
from tasks.labeling.margin_filter import keep_largest
from tasks.labeling.pairing import candidate_pairs
from tasks.labeling.preferences import make_preferences
from tasks.labeling.settings import LabelSpec, PreferenceSettings
from tasks.panel.annotators.human import HumanSettings
from tasks.panel.annotators.implicit_reward import ImplicitRewardSettings
from tasks.panel.annotators.protocol import Response
from tasks.panel.annotators.registry import open_annotators
from tasks.panel.humans.batch import batch_folder, export
from tasks.panel.humans.collect import collect
from tasks.panel.parts import Parts, remove_parts
from tasks.panel.questions import PanelVotes, Questions, votes_by_outcome
from tasks.panel.responses import Responses, for_annotators, read_responses
from tasks.panel.voting import AnswerStore, drawing_seed, vote

SOURCE = "policy"
_BLOCK = 4096  # prompts whose pairs are listed at once


def run(spec: LabelSpec, progress: Progress = silent) -> Manifest:
    """Label the responses of `spec.responses`; publishes scores, votes and preferences (.parquet) in `spec.folder`.

    Raises UserError for an empty panel, annotators that cannot be opened, unfinished responses, and when no pair is
    left, with the counts by reason; WaitingForVotes while people on the panel have not said enough.
    """
    manifest = run_stage(spec, lambda: _label(spec, progress))
    remove_parts(spec)
    return manifest


def _label(spec: LabelSpec, progress: Progress) -> Outcome:
    settings = spec.settings
    candidates = read_responses(SOURCE, spec.responses.path, spec.prompts.path)
    comparisons = _comparisons(candidates, drop_truncated=settings.preferences.drop_truncated)
    ballot = _ballot(spec, for_annotators([candidates]), comparisons, progress)
    ballot, penalties = without_length(ballot, candidates, comparisons, _levelled(spec))
    wanted = of_people(settings.preferences, ballot.votes)
    preferences = make_preferences(candidates, ballot.votes, wanted, spec.round, ballot.scores)
    if settings.preferences.keep is not None:
        kept, left_out = keep_largest(preferences.labels, ballot.scores, settings.preferences.keep)
        dropped = preferences.dropped | {"margin": left_out}
        preferences = replace(preferences, labels=kept, dropped=dropped)
    outcomes = votes_by_outcome(ballot.votes)
    # Votes are kept even when nothing follows from them: the raw column says what went wrong.
    paths = {name: spec.folder / f"{name}.parquet" for name in ("scores", "votes", "preferences")}
    write_parquet(paths["scores"], ballot.scores)
    write_parquet(paths["votes"], ballot.votes)
    labels = preferences.labels
    if not len(labels):
        raise UserError(
            f"no preference pair is left; pairs dropped by reason: {preferences.dropped}; votes: {outcomes}",
            where=str(spec.responses.path),
            remedy=_remedy(preferences.dropped, ballot.votes, str(paths["votes"])),
        )
    with parquet_writer(paths["preferences"], PREFERENCES) as file:
        for block in preferences.blocks():
            file.write(block)
    seen = observe(candidates, ballot.votes, ballot.scores, labels, wanted.gold)
    for name, observed in (("annotators", seen.annotators), ("agreement", seen.agreement)):
        paths[name] = spec.folder / f"{name}.parquet"
        write_parquet(paths[name], observed)
    return Outcome(
        paths=list(paths.values()),
        rows={"scores": len(ballot.scores), "votes": len(ballot.votes), "preferences": len(labels)},
        summary={
            "responses": len(candidates),
            "comparisons": len(comparisons),
            "votes": outcomes,
            "pairs": len(labels),
            "dropped": preferences.dropped,
            "mean_abs_target": float(pc.mean(labels["target"]).as_py()),
            "annotators": seen.annotators.to_pylist(),
            "agreement": seen.agreement.to_pylist(),
            "learnt": preferences.learnt | ({"length_penalties": penalties} if penalties else {}),
        },
    )


def _comparisons(candidates: Responses, *, drop_truncated: bool) -> Ints:
    """[n, 2]: the numbers of the two responses of each pair that the panel is asked about."""
    parts = [np.zeros((0, 2), dtype=np.int64)]
    for start in range(0, len(candidates.rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        pairs = candidate_pairs(candidates, drop_truncated=drop_truncated, prompts=block)
        sides = [candidates.rows[block][pairs.prompt, slot] for slot in (pairs.first, pairs.second)]
        parts.append(np.stack(sides, axis=1)[pairs.dropped == ""])
    return np.concatenate(parts)


def _ballot(spec: LabelSpec, responses: Sequence[Response], comparisons: Ints, progress: Progress) -> PanelVotes:
    """What the panel says. People are asked first, and can vote while the other annotators do; theirs come last."""
    panel = spec.settings.annotators
    people = {name: settings for name, settings in panel.items() if isinstance(settings, HumanSettings)}
    asked = list(Questions(responses, comparisons).comparisons) if people else []
    for name, settings in people.items():
        export(settings, name, batch_folder(spec.folder, name), asked)
    others = {name: settings for name, settings in panel.items() if name not in people}
    ballot = PanelVotes(SCORES.empty_table(), VOTES.empty_table())
    if others or not people:
        policies = {name: policy.path for name, policy in spec.policies.items()}
        annotators = open_annotators(others, drawing_seed(spec), policies)
        keeping = AnswerStore(Parts(spec, "panel"), spec.answers or spec.folder / "answers")
        ballot = vote(annotators, responses, comparisons, keeping, progress, spec.budget)
    said = [
        collect(settings, name, batch_folder(spec.folder, name), asked).rows(asked) for name, settings in people.items()
    ]
    return PanelVotes(ballot.scores, pa.concat_tables([ballot.votes, *said]))


def _levelled(spec: LabelSpec) -> dict[str, float]:
    """Annotators whose length penalty is found from the round's scores, and their tie margins."""
    return {
        name: each.tie_margin
        for name, each in spec.settings.annotators.items()
        if isinstance(each, ImplicitRewardSettings) and each.length_penalty == "level"
    }


def of_people(settings: PreferenceSettings, votes: pa.Table) -> PreferenceSettings:
    """`settings` with what they say of a group of people said of each person who voted: people -> people/ann, ...

    What is said of a person who did not vote is left out.
    """
    voters: list[str] = pc.unique(votes["annotator"]).to_pylist()

    def persons(name: str) -> list[str]:
        found = [voter for voter in voters if voter.startswith(f"{name}/")]
        return found or ([] if "/" in name and name not in voters else [name])

    return settings.model_copy(
        update={
            "gold": [person for name in settings.gold for person in persons(name)],
            "pinned": {person: value for name, value in settings.pinned.items() for person in persons(name)},
            "weights": {person: value for name, value in settings.weights.items() for person in persons(name)},
        }
    )


def _remedy(dropped: dict[str, int], votes: pa.Table, votes_path: str) -> str:
    failed = votes.filter(pc.equal(votes["outcome"], "error"))
    if len(failed):
        return f"see the annotators' errors in the columns outcome and raw of {votes_path} (and of scores.parquet)"
    if dropped.get("truncated", 0) > dropped.get("quorum", 0):
        return "raise sampling.max_tokens, or keep cut responses: preferences.drop_truncated=false"
    if dropped.get("quorum", 0):
        return "lower preferences.quorum, or add annotators that do not abstain on these prompts"
    return "sample more than one response a prompt, at a temperature at which they differ"
