"""A copy of an annotator that scores with a model, in a child process: one of the workers of a ScorerPool."""

from pydantic import TypeAdapter

from tasks.child_process import Done, Message, serve
from tasks.panel.annotators.protocol import LocalAnnotator, Score, is_remote
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
        answers = answers_of(self._annotator, request.responses)
        return Scores(scores=[answer for answer in answers if isinstance(answer, Score)])


if __name__ == "__main__":
    serve(TypeAdapter(Open | Batch), _Scorer().answer)
