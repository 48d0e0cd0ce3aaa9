"""vLLM in a child process: this side starts it, talks to it, and ends it.

A process of its own, because vLLM changes the process that imports it (threads, logging, the GPU), frees its memory
only when its process ends, and must not take the pipeline down when it dies.
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from storage.errors import UserError
from storage.files import digest, sha256_file
from tasks.child_process import Child, ChildDied, ChildFailed, ChildTooSlow, Done, Message
from tasks.generation.engines import Engine, EngineDied, EngineError, EngineSettings, Request, Sample
from tasks.generation.pool import EnginePool, device_groups
from tasks.generation.settings import SamplingSettings
from tasks.generation.vllm_stream import VllmStream
from tasks.generation.vllm_worker import MODULE, Reload, Sleep, Start, Wake
from tasks.modeling.end_tokens import end_tokens
from tasks.modeling.vllm_process import (
    VllmOptions,
    check_installed,
    check_memory,
    damaged_cache,
    environment_of,
    has_gpu,
    visible_devices,
)

log = logging.getLogger("irepo")

M = TypeVar("M", bound=Message)


class VllmSettings(EngineSettings):
    kind: Literal["vllm"] = "vllm"

    def open(self, *, trust_remote_code: bool = False, log: Path | None = None) -> Engine:
        """One engine, or `workers` of them. Raises UserError where there are too few GPUs for the workers."""
        if self.workers == 1:
            return VllmEngine(self, trust_remote_code=trust_remote_code, log=log)
        devices = device_groups(self.workers, self.tensor_parallel)
        return EnginePool(
            [
                VllmEngine(
                    self,
                    trust_remote_code=trust_remote_code,
                    log=log and log.with_name(f"{log.stem}-{number}{log.suffix}"),
                    devices=group,
                )
                for number, group in enumerate(devices)
            ]
        )


class VllmEngine:
    """An Engine. On a GPU, options are passed through to vLLM; this has been reviewed, not run.

    `devices`: the GPUs that it sees, as numbers among those that this process sees; None = all.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        trust_remote_code: bool = False,
        log: Path | None = None,
        devices: Sequence[int] | None = None,
    ) -> None:
        self._settings = settings
        self._trust_remote_code = trust_remote_code
        self._log = log
        self._devices = devices
        self._temporary_log: Path | None = None
        self._child: Child | None = None
        self._shape = ""
        self._asleep = False
        self._starting: Path | None = None  # the policy it was started with, until it has replied that it is ready
        self._end_tokens: list[int] = []
        self._stream: VllmStream | None = None

    def check(self, policy: Path) -> None:
        """Refuse what this machine cannot do: no vLLM, or too little memory (on a CPU)."""
        check_installed(where="engine.kind=vllm", remedy="sample with transformers: engine=transformers")
        if self._settings.between_stages == "sleep" and not has_gpu():
            raise UserError(
                "vLLM can sleep on a GPU only",
                where="engine.between_stages=sleep",
                remedy="leave the choice to the machine: engine.between_stages=auto (or keep, or stop)",
            )
        check_memory(policy, self._settings, where="engine")

    def prepare(self, policy: Path) -> None:
        if self._child is None:
            policy = policy.resolve()
            self._launch(policy, _shape(policy))

    def load(self, policy: Path) -> None:
        """Start the engine. If it runs a policy of the same architecture and tokenizer, only replace the weights.

        Raises UserError for settings that this machine or policy does not allow, EngineError when vLLM fails.
        """
        policy = policy.resolve()
        shape = _shape(policy)
        self._end_tokens = end_tokens(policy, trust_remote_code=self._trust_remote_code)
        if self._child is not None and (self._shape != shape or not self._child.running or self._is_sampling):
            self.close()
        if self._child is None:
            self._launch(policy, shape)
        if self._starting is not None:
            started_with = self._starting
            self._await_start()
            if started_with == policy:
                return
        if self._asleep:
            self._call(Wake(policy=str(policy)), Done)
            self._asleep = False
            log.info("vLLM wakes with the weights of %s", policy)
        else:
            self._call(Reload(policy=str(policy)), Done)

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        stream = self.stream(sampling, 1)
        stream.submit(0, requests)
        return stream.completed()[1]

    def stream(self, sampling: SamplingSettings, in_flight: int) -> VllmStream:
        if self._child is None or self._asleep:
            raise RuntimeError("load a policy before sampling")
        self._stream = VllmStream(self._ended_by_errors, sampling, self._end_tokens, in_flight)
        return self._stream

    def pause(self) -> None:
        paused = self._settings.while_paused()
        if paused == "stop" or self._is_sampling:
            self.close()
        elif paused == "sleep" and self._child is not None and not self._asleep:
            self._await_start()
            self._call(Sleep(), Done)
            log.info("vLLM sleeps: the GPU is free for the next stage")
            self._asleep = True

    def close(self) -> None:
        """End the child and its process group. A temporary log is deleted, unless an error has named it."""
        self._end()
        if self._temporary_log is not None:
            self._temporary_log.unlink(missing_ok=True)
            self._temporary_log = None

    @property
    def _is_sampling(self) -> bool:
        """Whether the child still has batches of a stream, which was given up after an error."""
        return self._stream is not None and self._stream.busy

    def _end(self) -> None:
        child, self._child, self._asleep, self._starting, self._stream = self._child, None, False, None, None
        if child is not None:
            child.end()

    def _launch(self, policy: Path, shape: str) -> None:
        """Start the process and have it start vLLM; `_await_start` waits for that."""
        self.check(policy)
        self._child = Child(
            "the vLLM engine",
            [sys.executable, "-m", MODULE],
            log=self._log or self._make_log(),
            env=environment_of(self._settings) | visible_devices(self._devices),
        )
        self._shape, self._starting = shape, policy
        options = VllmOptions.of(
            policy,
            self._settings,
            trust_remote_code=self._trust_remote_code,
            sleep_mode=self._settings.while_paused() == "sleep",
        )
        with self._ended_by_errors() as child:
            child.send(Start(options=options))

    def _make_log(self) -> Path:
        if self._temporary_log is None:
            handle, name = tempfile.mkstemp(prefix="irepo-vllm-", suffix=".log")
            os.close(handle)
            self._temporary_log = Path(name)
        return self._temporary_log

    def _await_start(self) -> None:
        if self._starting is None:
            return
        self._starting = None
        timeout = self._settings.start_timeout
        with self._ended_by_errors() as child:
            try:
                child.receive(Done, timeout)
            except ChildTooSlow:
                raise UserError(
                    f"vLLM was not ready after {timeout:g} s; {child.log_tail()}",
                    where=f"engine.start_timeout={timeout:g}",
                    remedy="raise engine.start_timeout, or set engine.enforce_eager=true to start without compiling",
                ) from None
            except ChildFailed as failed:
                raise self._start_error(failed) from None

    def _call(self, request: Message, kind: type[M]) -> M:
        """Send one request and wait for its reply."""
        with self._ended_by_errors() as child:
            child.send(request)
            return child.receive(kind)

    @contextmanager
    def _ended_by_errors(self) -> Iterator[Child]:
        """After any error the child is ended: its state is unknown. The errors of a Child become those of an Engine."""
        if self._child is None:
            raise EngineError("the vLLM engine is not running")
        try:
            yield self._child
        except BaseException as error:
            self._end()
            self._temporary_log = None  # it stays where the error names it
            if isinstance(error, ChildDied):
                raise EngineDied(str(error)) from None
            if isinstance(error, ChildFailed):
                raise EngineError(str(error)) from None
            raise

    def _start_error(self, failed: ChildFailed) -> Exception:
        """Why vLLM did not start, as a UserError if the cause is known."""
        settings, text = self._settings, failed.text
        first = text.strip().splitlines()[0]
        if damaged := damaged_cache(text, where="engine.kind=vllm"):
            return damaged
        memory = f"engine.kv_cache_gib={settings.kv_cache_gib:g} (CPU), engine.gpu_memory_utilization (GPU)"
        if "KV cache is needed" in text.replace("\n", " "):
            return UserError(
                f"the KV cache does not hold one sequence of the context's length: {first}",
                where=memory,
                remedy="lower engine.max_model_len to what prompts and responses need, or give the cache more memory",
            )
        if "memory" in text.lower():
            return UserError(
                f"vLLM has too little memory: {first}",
                where=memory,
                remedy="lower engine.kv_cache_gib or engine.gpu_memory_utilization, or end other programs",
            )
        if "max_model_len" in text:
            return UserError(
                f"vLLM refuses the context length: {text.strip()}",
                where=f"engine.max_model_len={settings.max_model_len}",
                remedy="leave engine.max_model_len at null (the policy's context), or lower it",
            )
        if "architectures" in text and "not supported" in text:
            return UserError(
                f"vLLM does not support this policy's architecture: {first}",
                where="policy, engine.kind=vllm",
                remedy="sample with transformers: engine=transformers",
            )
        return failed


def _shape(policy: Path) -> str:
    """Digest of what two policies must share so that one's weights can replace the other's: config and tokenizer."""
    config = json.loads((policy / "config.json").read_text(encoding="utf-8"))
    for name in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"):
        config.pop(name, None)
    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
    return digest([config, {name: sha256_file(policy / name) for name in files if (policy / name).is_file()}])
