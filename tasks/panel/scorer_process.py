"""A copy of an annotator that scores with a model, in a child process: one of the workers of a ScorerPool."""

from pydantic import TypeAdapter

from tasks.child_process import Done, Message, serve
from tasks.panel.annotators.protocol import Answer, LocalAnnotator, Score, is_remote
from tasks.panel.annotators.registry import ANNOTATORS
from tasks.panel.batch import answers_of
from tasks.panel.scorer_pool import Batch, Open, Scores


class _Scorer:
    def __init__(self) -> None:
        self._annotator: LocalAnnotator | None = None

    def answer(self, request: Open | Batch) -> Message:
        if isinstance(request, Open):
            opened = ANNOTATORS.read(request.settings).open(request.name, seed=request.seed)
            assert not is_remote(opened)
            self._annotator = opened
            return Done()
        assert self._annotator is not None
        return Scores(scores=[_score(answer) for answer in answers_of(self._annotator, request.responses)])


def _score(answer: Answer) -> Score:
    if not isinstance(answer, Score):
        raise TypeError(f"an annotator that scores answered with {type(answer).__name__}")
    return answer


if __name__ == "__main__":
    serve(TypeAdapter(Open | Batch), _Scorer().answer)
