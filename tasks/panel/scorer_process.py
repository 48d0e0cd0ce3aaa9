"""A copy of an annotator that scores with a model, in a child process: a worker of tasks/panel/scorer_processes.py."""

from pydantic import TypeAdapter

from tasks.child_process import Done, Message, serve
from tasks.panel.annotators.protocol import LocalAnnotator
from tasks.panel.scorer import opened_alone, scores_of
from tasks.panel.scorer_processes import Batch, Open, Scores


class _Scorer:
    def __init__(self) -> None:
        self._annotator: LocalAnnotator | None = None

    def answer(self, request: Open | Batch) -> Message:
        if isinstance(request, Open):
            self._annotator = opened_alone(request.name, request.settings, request.seed)
            return Done()
        assert self._annotator is not None
        return Scores(scores=scores_of(self._annotator, request.responses))


if __name__ == "__main__":
    serve(TypeAdapter(Open | Batch), _Scorer().answer)
