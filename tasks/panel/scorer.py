"""What every worker of a ScorerPool does, in a child process or on a cluster: open the annotator, score a batch."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from tasks.panel.annotators.protocol import Answer, LocalAnnotator, Response, Score, is_remote
from tasks.panel.annotators.registry import ANNOTATORS
from tasks.panel.batch import answers_of


def opened_alone(name: str, settings: Mapping[str, JsonValue], seed: int) -> LocalAnnotator:
    """The annotator itself. settings: as JSON, of one worker. Weights are read with the first batch."""
    opened = ANNOTATORS.read(settings).open(name, seed=seed)
    assert not is_remote(opened)
    return opened


def scores_of(annotator: LocalAnnotator, responses: Sequence[Response]) -> list[Score]:
    """Questions on which the annotator fails are errors, unless it fails on all of them."""
    return [_score(answer) for answer in answers_of(annotator, responses)]


def _score(answer: Answer) -> Score:
    if not isinstance(answer, Score):
        raise TypeError(f"an annotator that scores answered with {type(answer).__name__}")
    return answer
