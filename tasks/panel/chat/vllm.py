"""A chat model that vLLM runs on this machine: questions join the batch that is being decoded.

The engine lives in a process group of its own, from `connected` on: vLLM takes over what it is imported into, and its
memory comes back only when its process ends. Annotators with the same model and engine settings share one.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from storage.errors import UserError
from storage.files import digest
from tasks.modeling.load import check_policy_folder
from tasks.modeling.vllm_process import check_installed, check_memory, environment, has_gpu, memory_options
from tasks.panel.annotators.protocol import Fault
from tasks.panel.chat import Messages, Reply, Token, faults_met
from tasks.panel.chat.settings import ChatSettings
from tasks.processes import end_group, start_group

_ROOT = Path(__file__).resolve().parents[3]
_LOG_TAIL = 30  # lines of the worker's log in an error


class VllmChat:
    """Raises UserError for a folder that is no chat model, without vLLM, and for too little memory (not on a GPU)."""

    def __init__(self, name: str, settings: ChatSettings) -> None:
        self._name = name
        self._settings = settings
        self._engine: _Engine | None = None
        folder, engine = Path(settings.model), settings.engine
        check_installed(where=f"annotators.{name}.backend", remedy="ask an endpoint: backend: endpoint")
        check_policy_folder(folder)
        if not has_gpu():
            check_memory(
                folder,
                engine.dtype,
                kv_cache_gib=engine.kv_cache_gib,
                tensor_parallel=engine.tensor_parallel,
                where=f"annotators.{name}.engine",
            )

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Raises UserError when vLLM refuses the model, or is not ready in time."""
        key = (id(asyncio.get_running_loop()), digest([self._settings.model, self._settings.engine.model_dump()]))
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

    async def chat(self, messages: Messages, *, max_tokens: int, temperature: float, top_logprobs: int = 0) -> Reply:
        engine = self._engine
        assert engine is not None, "chat() is for inside connected()"
        async with self._gate:
            started = time.monotonic()
            try:
                said = await engine.ask(
                    {
                        "messages": messages,
                        "max_tokens": max_tokens,
                        "temperature": temperature,
                        "top_logprobs": top_logprobs,
                    }
                )
            except EngineGone as gone:
                faults_met.get([]).append("vLLM ended")
                raise Fault(str(gone), time.monotonic() - started) from None
        return self._reply(said, time.monotonic() - started)

    def _reply(self, said: dict[str, Any], seconds: float) -> Reply:
        if "error" in said:
            return Reply(None, said["error"], seconds, None, None)
        price = self._settings.price
        # Tokens that stand for parts of characters can have one text: the likelier one, which is first, stays.
        return Reply(
            said["text"],
            "cut off at max_tokens" if said["finish"] == "length" else None,
            seconds,
            said["prompt"] + said["completion"],
            price.of(said["prompt"], said["completion"]) if price else None,
            tuple(Token(text, dict(best[::-1])) for text, best in said["top"]),
        )


class EngineGone(Exception):
    """The worker ended, or was never there."""


class _Engine:
    """The worker and the questions it has not answered yet. `users`: how many annotators are connected to it.

    A worker that dies takes its questions with it; the next question starts another.
    """

    def __init__(self, name: str, settings: ChatSettings) -> None:
        self.users = 0
        self._name = name
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._starting: asyncio.Task[None] | None = None
        self._asked: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Future[dict[str, Any]]]] = {}
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
            # Whoever waits may be cancelled first; then nobody asks how it ended.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._starting)

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The worker's reply. Raises EngineGone."""
        try:
            await self.ready()
        except UserError as error:
            self._gone = True
            raise EngineGone(error.what) from None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[dict[str, Any]] = loop.create_future()
        with self._lock:
            if self._gone or self._process is None or self._process.stdin is None:
                raise EngineGone("the vLLM engine ended")
            self._number += 1
            number = str(self._number)
            self._asked[number] = loop, future
            # Where the worker has ended, the reader sees it too, and says so to everybody who waits.
            with suppress(OSError):
                self._process.stdin.write(json.dumps(question | {"id": number}).encode() + b"\n")
                self._process.stdin.flush()
        return await future

    def close(self) -> None:
        with self._lock:
            self._closed = True
            process = self._process
        self._end(process)
        self._log.unlink(missing_ok=True)

    def _end(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is None:
            return
        end_group(process)
        if self._reader is not None:
            self._reader.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def _start(self) -> None:
        engine, on_cpu = self._settings.engine, not has_gpu()
        options: dict[str, Any] = {
            "model": str(Path(self._settings.model).resolve()),
            "dtype": engine.dtype,
            "max_model_len": engine.max_model_len,
            "enforce_eager": engine.enforce_eager,
            "tensor_parallel_size": engine.tensor_parallel,
            "generation_config": "vllm",  # sampling is what settings say, not what came with the model
            "seed": 0,
        } | memory_options(
            on_cpu=on_cpu, kv_cache_gib=engine.kv_cache_gib, gpu_memory_utilization=engine.gpu_memory_utilization
        )
        self._end(self._process)
        with self._lock, open(self._log, "wb") as log:
            if self._closed:
                raise EngineGone("the vLLM engine was closed before it started")
            process = self._process = start_group(
                [sys.executable, "-m", "tasks.panel.chat.vllm_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(
                    on_cpu=on_cpu, enforce_eager=engine.enforce_eager, tensor_parallel=engine.tensor_parallel
                ),
                cwd=_ROOT,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"options": options}).encode() + b"\n")
        process.stdin.flush()
        in_time = wait([process.stdout.fileno()], engine.start_timeout)
        line = process.stdout.readline() if in_time else b""
        said = json.loads(line) if line.endswith(b"\n") else {"error": "it ended" if in_time else "not ready in time"}
        if "error" in said:
            raise UserError(
                f"vLLM does not start: {said['error'].strip().splitlines()[0]}\n{self._tail()}",
                where=f"annotators.{self._name}.model={self._settings.model}",
                remedy="see the end of its log above; engine: has its memory, context and start_timeout",
            )
        self._reader = threading.Thread(target=self._read, args=(process,), name="vllm-replies", daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Hand out replies until the worker ends; then tell everybody who waits."""
        assert process.stdout is not None
        try:
            for line in process.stdout:
                reply = json.loads(line)
                with self._lock:
                    loop, future = self._asked.pop(reply.pop("id"))
                _hand_over(loop, future, reply)
        except ValueError:  # closed by us, or a line that was cut
            pass
        with self._lock:
            self._gone = True
            left, self._asked = list(self._asked.values()), {}
        gone = EngineGone(f"the vLLM engine ended (exit code {process.wait()})\n{self._tail()}")
        for loop, future in left:
            _hand_over(loop, future, gone)

    def _tail(self) -> str:
        if not self._log.is_file():
            return ""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:])


_engines: dict[tuple[int, str], _Engine] = {}


def _hand_over(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[dict[str, Any]], what: dict[str, Any] | EngineGone
) -> None:
    def settle() -> None:
        if future.done():  # whoever asked was cancelled
            return
        if isinstance(what, EngineGone):
            future.set_exception(what)
        else:
            future.set_result(what)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
