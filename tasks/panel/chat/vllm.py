"""A chat model that vLLM runs on this machine: questions join the batch that is being decoded.

While the model is connected, vLLM runs in a child process: it changes the process that imports it, and frees its memory
only when its process ends. Annotators with the same model and engine settings share one child.
"""

import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from storage.errors import UserError
from storage.files import digest
from tasks.child_process import Child, ChildDied, ChildFailed, ChildTooSlow, Done
from tasks.modeling.load import check_policy_folder
from tasks.modeling.vllm_process import VllmOptions, check_installed, check_memory, damaged_cache, environment_of
from tasks.panel.annotators.protocol import Fault, Refused
from tasks.panel.chat import Messages, Reply, Token, faults_met
from tasks.panel.chat.settings import ChatSettings
from tasks.panel.chat.vllm_worker import MODULE, Answer, Completion, Question, Start


class VllmChat:
    """Raises UserError if the model is not a folder with a chat model, vLLM is missing, or memory is too small."""

    def __init__(self, name: str, settings: ChatSettings) -> None:
        self._name = name
        self._settings = settings
        self._engine: _Engine | None = None
        folder = Path(settings.model)
        check_installed(where=f"annotators.{name}.backend", remedy="use an endpoint: backend: endpoint")
        check_policy_folder(folder, trust_remote_code=settings.trust_remote_code)
        check_memory(folder, settings.engine, where=f"annotators.{name}.engine")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Raises UserError when vLLM refuses the model, or is not ready in time."""
        key = (
            id(asyncio.get_running_loop()),
            digest(
                [
                    self._settings.model,
                    self._settings.engine.model_dump(),
                    self._settings.template_values.model_dump(mode="json"),
                ]
            ),
        )
        if key not in _engines:
            _engines[key] = _Engine(self._name, self._settings)
        engine = _engines[key]
        engine.users += 1
        self._gate = asyncio.Semaphore(self._settings.concurrency)
        try:
            await engine.ready()
            self._engine = engine
            yield
        finally:
            self._engine = None
            engine.users -= 1
            if not engine.users:
                _engines.pop(key, None)
                await asyncio.shield(asyncio.to_thread(engine.close))

    async def chat(
        self,
        messages: Messages,
        *,
        max_tokens: int | None,
        temperature: float | None,
        top_logprobs: int = 0,
        choices: Sequence[str] = (),
    ) -> Reply:
        engine = self._engine
        assert max_tokens is not None, "settings of this backend have a number"
        assert temperature is not None, "settings of this backend have a number"
        assert engine is not None, "chat() must be called inside connected()"
        async with self._gate:
            started = time.monotonic()
            try:
                answer = await engine.ask(messages, max_tokens, temperature, top_logprobs, choices)
            except EngineGone as gone:
                faults_met.get([]).append("vLLM ended")
                raise Fault(str(gone), time.monotonic() - started) from None
        if answer.completion is None:
            raise Refused(answer.error or "vLLM refuses the question", time.monotonic() - started)
        return self._reply(answer.completion, time.monotonic() - started)

    def _reply(self, completion: Completion, seconds: float) -> Reply:
        price = self._settings.price
        # Tokens that are parts of characters can have the same text: the likelier one, which is first, is kept.
        return Reply(
            completion.text,
            "cut off at max_tokens" if completion.finish_reason == "length" else None,
            seconds,
            completion.prompt_tokens + completion.completion_tokens,
            price.of(completion.prompt_tokens, completion.completion_tokens) if price else None,
            tuple(Token(token.text, dict(token.top[::-1])) for token in completion.top_logprobs),
        )


class EngineGone(Exception):
    """The child process ended, or never started."""


#: Who waits for an answer, and in which event loop.
_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Answer]"]


class _Engine:
    """The child process and its unanswered questions. `users`: number of annotators that are connected to it.

    When the child dies, its questions fail; the next question starts a new child.
    """

    def __init__(self, name: str, settings: ChatSettings) -> None:
        self.users = 0
        self._name = name
        self._settings = settings
        self._child: Child | None = None
        self._reader: threading.Thread | None = None
        self._starting: asyncio.Task[None] | None = None
        self._waiters: dict[str, _Waiter] = {}  # by the question's id
        self._lock = threading.Lock()
        self._number = 0
        self._gone = self._closed = False
        handle, log = tempfile.mkstemp(prefix="irepo-judge-", suffix=".log")
        os.close(handle)
        self._log = Path(log)

    async def ready(self) -> None:
        """Raises UserError when vLLM does not start."""
        if self._starting is None or self._gone:
            self._gone = False
            self._starting = asyncio.create_task(asyncio.to_thread(self._start))
            # If every waiting task is cancelled, nobody retrieves the result.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._starting)

    async def ask(
        self, messages: Messages, max_tokens: int, temperature: float, top_logprobs: int, choices: Sequence[str]
    ) -> Answer:
        """Raises EngineGone."""
        try:
            await self.ready()
        except UserError as error:
            self._gone = True
            raise EngineGone(error.what) from None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        with self._lock:
            if self._gone or self._child is None:
                raise EngineGone("the vLLM engine ended")
            self._number += 1
            question = Question(
                id=str(self._number),
                messages=messages,
                max_tokens=max_tokens,
                temperature=temperature,
                top_logprobs=top_logprobs,
                choices=list(choices),
            )
            self._waiters[question.id] = loop, future
            with suppress(ChildDied):  # the reader sees it too, and fails all questions
                self._child.send(question)
        return await future

    def close(self) -> None:
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.end(self._reader)
        self._log.unlink(missing_ok=True)

    def _start(self) -> None:
        if self._child is not None:
            self._child.end(self._reader)
        settings = self._settings
        with self._lock:
            if self._closed:
                raise EngineGone("the vLLM engine was closed before it started")
            child = self._child = Child(
                "the vLLM engine", [sys.executable, "-m", MODULE], log=self._log, env=environment_of(settings.engine)
            )
        try:
            options = VllmOptions.of(
                Path(settings.model).resolve(), settings.engine, trust_remote_code=settings.trust_remote_code
            )
            child.send(Start(options=options, template=settings.template_values))
            child.receive(Done, settings.engine.start_timeout)
        except (ChildDied, ChildFailed, ChildTooSlow) as error:
            where = f"annotators.{self._name}.model={settings.model}"
            if damaged := damaged_cache(str(error), where=where):
                raise damaged from None
            raise UserError(
                f"vLLM does not start: {error}",
                where=where,
                remedy="the end of its log is above; memory, context length and start_timeout are settings in engine:",
            ) from None
        self._reader = threading.Thread(target=self._read, args=(child,), name="vllm-replies", daemon=True)
        self._reader.start()

    def _read(self, child: Child) -> None:
        """Hand out answers until the child ends; then fail all questions that are left."""
        reason = "the vLLM engine ended"
        try:
            while True:
                answer = child.receive(Answer)
                with self._lock:
                    loop, future = self._waiters.pop(answer.id)
                _hand_over(loop, future, answer)
        except Exception as error:
            reason = str(error)
        finally:
            with self._lock:
                self._gone = True
                waiters, self._waiters = list(self._waiters.values()), {}
            for loop, future in waiters:
                _hand_over(loop, future, EngineGone(reason))


_engines: dict[tuple[int, str], _Engine] = {}


def _hand_over(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Answer]", outcome: Answer | EngineGone) -> None:
    def settle() -> None:
        if future.done():  # the task that waited was cancelled
            return
        if isinstance(outcome, EngineGone):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
