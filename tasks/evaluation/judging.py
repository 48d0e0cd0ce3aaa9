"""The judge stage of evaluation: several policies' responses to the same prompts, compared and rated."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from storage.arrays import Ints
from storage.errors import UserError
from storage.manifest import Manifest
from storage.schemas import SCORES, VOTES, write_parquet
from storage.stage import Outcome, Progress, run_stage, silent
from tasks.evaluation.settings import JudgeSpec, JudgingSettings
from tasks.panel.annotators.registry import AnnotatorSettings, open_annotators
from tasks.panel.parts import Parts, remove_parts
from tasks.panel.questions import PanelVotes, votes_by_outcome
from tasks.panel.responses import Responses, for_annotators, read_responses
from tasks.panel.voting import AnswerStore, drawing_seed, vote


def run_judging(spec: JudgeSpec, progress: Progress = silent) -> Manifest:
    """Compare response j of the first source (a) with response j of each other one (b), by `judges`; `rates` score the
    first source's responses. Publishes votes.parquet and scores.parquet in `spec.folder`; without judges and rates
    both are empty, and the evaluation has no win rates.

    Raises UserError for no source, rates that do not score, unfinished responses, and sources that
    do not hold the same responses (prompt and index).
    """
    manifest = run_stage(spec, lambda: _judge(spec, progress))
    remove_parts(spec)
    return manifest


def _judge(spec: JudgeSpec, progress: Progress) -> Outcome:
    settings = spec.settings
    if not spec.responses:
        raise UserError("there is nothing to judge", where="responses", remedy="name at least one generate folder")
    seed = drawing_seed(spec)
    rates = open_annotators(_rates_of_their_own(settings), seed)
    for annotator in rates:
        if annotator.answer_type != "scores":
            raise UserError(
                f"{annotator.name} compares pairs and cannot rate single responses",
                where=f"rates.{annotator.name}",
                remedy="put it under judges; rates take the kinds verifier, rule, function and reward_model",
            )
    judges = open_annotators(settings.judges, seed)
    sources = [read_responses(name, source.path, spec.prompts.path) for name, source in spec.responses.items()]
    responses = for_annotators(sources)
    comparisons = _across(sources)
    ballots = [PanelVotes(SCORES.empty_table(), VOTES.empty_table())]
    answers = spec.answers or spec.folder / "answers"
    if judges:
        ballots.append(vote(judges, responses, comparisons, AnswerStore(Parts(spec, "judges"), answers), progress))
    if rates:
        rated = for_annotators(sources[:1])
        ballots.append(vote(rates, rated, comparisons[:0], AnswerStore(Parts(spec, "rates"), answers), progress))
    scores = pa.concat_tables([ballot.scores for ballot in ballots])
    votes = pa.concat_tables([ballot.votes for ballot in ballots])
    paths = [spec.folder / "votes.parquet", spec.folder / "scores.parquet"]
    write_parquet(paths[0], votes)
    write_parquet(paths[1], scores)
    return Outcome(
        paths=paths,
        rows={"votes": len(votes), "scores": len(scores)},
        summary={"comparisons": len(comparisons), "votes": votes_by_outcome(votes)},
    )


def _rates_of_their_own(settings: JudgingSettings) -> dict[str, AnnotatorSettings]:
    """The rates that are not judges as well: a judge that scores has scored the first source already."""
    for name, annotator in settings.rates.items():
        if name in settings.judges and settings.judges[name] != annotator:
            raise UserError(
                f"{name} is the name of two different annotators",
                where=f"judges.{name} and rates.{name}",
                remedy="give one of them another name",
            )
    return {name: annotator for name, annotator in settings.rates.items() if name not in settings.judges}


def _across(sources: Sequence[Responses]) -> Ints:
    """[n, 2]: each response of the first source with the same one of every other, as positions in all sources' rows."""
    first = sources[0]
    size = len(first)
    for other in sources[1:]:
        if not (other.prompt_ids.equals(first.prompt_ids) and np.array_equal(other.rows, first.rows)):
            raise UserError(
                f"{first.source} and {other.source} do not hold responses to the same prompts, as many to each",
                where=f"responses.{other.source}",
                remedy="sample both with the same prompts and the same number of responses",
            )
    a = np.tile(np.arange(size), len(sources) - 1)
    return np.stack([a, np.arange(size, size * len(sources))], axis=1)
