"""The judge stage: responses of several policies to the same prompts, compared and scored."""

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from storage.arrays import Ints
from storage.errors import UserError
from storage.manifest import Manifest
from storage.schemas import SCORES, VOTES, write_parquet
from storage.stage import Outcome, Progress, run_stage, silent
from tasks.cluster.scorers import scorers_on
from tasks.evaluation.settings import JudgeSpec, JudgingSettings
from tasks.panel.annotators.registry import AnnotatorSettings, open_annotators
from tasks.panel.outages import stop_on_outage
from tasks.panel.parts import Parts, remove_parts
from tasks.panel.questions import PanelVotes, votes_by_outcome
from tasks.panel.responses import Responses, for_annotators, read_responses
from tasks.panel.voting import AnswerStore, drawing_seed, vote

log = logging.getLogger("irepo")

_MANY = 0.1  # share of errors from which a judge is warned about


def run_judging(spec: JudgeSpec, progress: Progress = silent) -> Manifest:
    """Run or adopt the judge stage; publishes votes.parquet and scores.parquet in `spec.folder`.

    `judges` compare response j of the first source (a) with response j of every other source (b). `rates` score the
    responses of the first source. Without judges and rates both files are empty, and there are no win rates.

    Raises UserError when there is no source, for rates that do not score, for unfinished responses, for sources that
    do not answer the same prompts with equally many responses, and when a judge is given up (unless `spec.on_outage`
    is go_on).
    """
    manifest = run_stage(spec, lambda: _judge(spec, progress))
    remove_parts(spec)
    return manifest


def _judge(spec: JudgeSpec, progress: Progress) -> Outcome:
    settings = spec.settings
    if not spec.responses:
        raise UserError(
            "there are no responses to judge", where="responses", remedy="give at least one generate folder"
        )
    seed, open_workers = drawing_seed(spec), scorers_on(spec.cluster, spec.folder)
    rates = open_annotators(_rates_only(settings), seed, open_workers=open_workers)
    for annotator in rates:
        if annotator.answer_type != "scores":
            raise UserError(
                f"{annotator.name} compares pairs and cannot score single responses",
                where=f"rates.{annotator.name}",
                remedy="move it to judges; rates take the kinds verifier, rule, function and reward_model",
            )
    judges = open_annotators(settings.judges, seed, open_workers=open_workers)
    sources = [
        read_responses(name, source.path, spec.prompts.path, reasoning_end=settings.reasoning_end)
        for name, source in spec.responses.items()
    ]
    responses = for_annotators(sources)
    comparisons = _comparisons(sources)
    results = [PanelVotes(SCORES.empty_table(), VOTES.empty_table())]
    answers = spec.answers or spec.folder / "answers"
    if judges:
        results.append(vote(judges, responses, comparisons, AnswerStore(Parts(spec, "judges"), answers), progress))
    if rates:
        rated = for_annotators(sources[:1])
        results.append(vote(rates, rated, comparisons[:0], AnswerStore(Parts(spec, "rates"), answers), progress))
    scores = pa.concat_tables([result.scores for result in results])
    votes = pa.concat_tables([result.votes for result in results])
    paths = [spec.folder / "votes.parquet", spec.folder / "scores.parquet"]
    write_parquet(paths[0], votes)
    write_parquet(paths[1], scores)
    outages = {name: why for result in results for name, why in result.outages.items()}
    stop_on_outage(outages, spec.on_outage, setting="evaluation.on_outage", folder=spec.folder)
    _warn_about_errors(votes)
    return Outcome(
        paths=paths,
        rows={"votes": len(votes), "scores": len(scores)},
        summary={"comparisons": len(comparisons), "votes": votes_by_outcome(votes)},
    )


def _warn_about_errors(votes: pa.Table) -> None:
    """Win rates leave errors out, so that a judge with many errors decides by the few votes that it has."""
    for judge, outcomes in votes_by_outcome(votes).items():
        errors, n = outcomes.get("error", 0), sum(outcomes.values())
        if errors > _MANY * n:
            log.warning(
                "%s: %d of %d votes are errors and count in no win rate; see `raw` in votes.parquet", judge, errors, n
            )


def _rates_only(settings: JudgingSettings) -> dict[str, AnnotatorSettings]:
    """The rates that are not also judges: a judge that scores has scored the first source already."""
    for name, annotator in settings.rates.items():
        if name in settings.judges and settings.judges[name] != annotator:
            raise UserError(
                f"two different annotators have the name {name}",
                where=f"judges.{name} and rates.{name}",
                remedy="rename one of them",
            )
    return {name: annotator for name, annotator in settings.rates.items() if name not in settings.judges}


def _comparisons(sources: Sequence[Responses]) -> Ints:
    """[n, 2]: each response of the first source and its counterpart in another, as numbers over all sources."""
    first = sources[0]
    size = len(first)
    for other in sources[1:]:
        if not (other.prompt_ids.equals(first.prompt_ids) and np.array_equal(other.rows, first.rows)):
            raise UserError(
                f"{first.source} and {other.source} have different prompts, or different numbers of responses",
                where=f"responses.{other.source}",
                remedy="sample both with the same prompts and the same number of responses",
            )
    a = np.tile(np.arange(size), len(sources) - 1)
    return np.stack([a, np.arange(size, size * len(sources))], axis=1)
