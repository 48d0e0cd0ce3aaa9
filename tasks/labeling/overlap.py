"""While a stage samples responses, the panel's chat models behind endpoints are asked about its published shards.

A shard holds whole prompts, so all questions about a prompt are known when its shard is published. Annotators on this
machine wait for the label stage: they need the device, or read scores of the whole round.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from threading import Thread

from storage.manifest import MANIFEST
from storage.stage import Spec, has_part
from tasks.labeling.settings import LabelSpec
from tasks.labeling.stage import SOURCE, comparisons_of
from tasks.panel.ahead import AskAhead, first_of
from tasks.panel.annotators.protocol import is_remote
from tasks.panel.annotators.registry import open_annotators
from tasks.panel.annotators.settings import AnnotatorBase
from tasks.panel.budget import Spending
from tasks.panel.chat.settings import ChatSettings
from tasks.panel.journal import Journal
from tasks.panel.questions import Questions
from tasks.panel.responses import PromptFile, for_annotators, responses_in
from tasks.panel.voting import drawing_seed

log = logging.getLogger("irepo")

_LOOK = 0.5  # seconds between looks at the folder of the stage that samples
_LONGEST = 120.0  # seconds that questions under way are awaited; then the label stage asks them again


def endpoints(panel: Mapping[str, AnnotatorBase]) -> dict[str, AnnotatorBase]:
    """The annotators that may be asked early: chat models that other machines, or other processes, serve."""
    return {
        name: settings
        for name, settings in panel.items()
        if isinstance(settings, ChatSettings) and settings.backend == "endpoint"
    }


@contextmanager
def asked_ahead(label: LabelSpec, sampling: Spec) -> Iterator[None]:
    """Ask the panel of `label` about the shards that the stage `sampling` publishes, while the body runs that stage.

    label: its `responses` may be of unknown digest. When the body ends, questions under way are awaited for a while;
    when it raises, they are given up. Nothing that an annotator does reaches the body. With a budget in seconds nothing
    is asked: it limits an attempt of the label stage.
    """
    panel = endpoints(label.settings.annotators)
    if not panel or label.budget.seconds is not None:
        yield
        return
    overlap = _Overlap(label, sampling, panel)
    # In the context of the run, so that what is logged reaches its log in Prefect.
    thread = Thread(target=copy_context().run, args=(overlap.run,), name="ask-ahead", daemon=True)
    thread.start()
    try:
        yield
        overlap.end()
        thread.join(_LONGEST)
        if thread.is_alive():
            overlap.end(give_up=True)
            thread.join()
    except BaseException:
        overlap.end(give_up=True)
        thread.join()
        raise


class _Overlap:
    """The thread that looks for shards and asks about them."""

    def __init__(self, label: LabelSpec, sampling: Spec, panel: Mapping[str, AnnotatorBase]) -> None:
        self._label, self._sampling, self._panel = label, sampling, panel
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def end(self, *, give_up: bool = False) -> None:
        """From another thread: ask nothing more. give_up: do not wait for what is under way."""

        def end() -> None:
            if give_up and self._task is not None:
                self._task.cancel()  # alone: with `_ended` set, Python 3.11's wait_for drops a cancellation
            else:
                self._ended.set()

        with suppress(RuntimeError):  # the loop is closed: it has ended by itself
            self._loop.call_soon_threadsafe(end)

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                with suppress(asyncio.CancelledError):
                    runner.run(self._ask())
            except Exception as error:
                log.warning("nothing is asked while responses are sampled; the label stage asks: %s", first_of(error))

    async def _ask(self) -> None:
        self._task = asyncio.current_task()
        prompts: PromptFile | None = None
        asked: set[Path] = set()
        with ExitStack() as journals:
            async with asyncio.TaskGroup() as group:
                annotators: list[AskAhead] = []
                while not self._ended.is_set():
                    for path in self._published(asked):
                        if prompts is None:
                            prompts = PromptFile.of(self._label.prompts.path)
                            annotators = self._open(journals)
                            for annotator in annotators:
                                group.create_task(annotator.run())
                        asked.add(path)
                        self._add(annotators, path, prompts)
                    await self._pause()
                for annotator in annotators:
                    annotator.stop()
        if count := sum(annotator.answered for annotator in annotators):
            log.info("round %d: %d questions were answered while responses were sampled", self._label.round, count)

    def _open(self, journals: ExitStack) -> list[AskAhead]:
        folder = self._label.answers or self._label.folder / "answers"
        spending = Spending(self._label.budget)
        opened = open_annotators(self._panel, drawing_seed(self._label))
        return [
            AskAhead(
                each, journals.enter_context(Journal(folder, each.name, each.identity, each.answer_type)), spending
            )
            for each in opened
            if is_remote(each)
        ]

    def _published(self, asked: set[Path]) -> list[Path]:
        """Shards of this very work that were not asked about yet. A finished stage has none: its manifest is there."""
        folder = self._sampling.folder
        if (folder / MANIFEST).exists():
            return []
        paths = [path for path in sorted(folder.glob("responses-*.parquet")) if path not in asked]
        return [path for path in paths if has_part(self._sampling, path)]

    def _add(self, annotators: list[AskAhead], path: Path, prompts: PromptFile) -> None:
        settings = self._label.settings
        responses = responses_in(SOURCE, [path], prompts, folder=path.parent, reasoning_end=settings.reasoning_end)
        comparisons = comparisons_of(responses, drop_truncated=settings.preferences.drop_truncated)
        questions = Questions(for_annotators([responses]), comparisons)
        for annotator in annotators:
            annotator.add(questions.of(annotator.answer_type))

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _LOOK)
