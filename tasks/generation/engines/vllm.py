"""vLLM in a process group of its own: this side starts it, talks to it, and ends it.

A separate process, because vLLM takes over what it is imported into (threads, logging, the GPU), because its memory
can be given back only by ending it, and because it must not take the pipeline down when it dies.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

from storage.errors import UserError
from storage.files import digest, sha256_file
from tasks.generation.engines import Engine, EngineDied, EngineError, EngineSettings, Request, Sample, end_tokens
from tasks.generation.replicas import Replicas, device_groups
from tasks.generation.settings import SamplingSettings
from tasks.modeling.vllm_process import (
    check_installed,
    check_memory,
    environment,
    has_gpu,
    memory_options,
    visible_devices,
)
from tasks.processes import end_group, start_group

_ROOT = Path(__file__).resolve().parents[3]
_LOG_TAIL = 30  # lines of the worker's log in an error


class VllmSettings(EngineSettings):
    kind: Literal["vllm"] = "vllm"

    def open(self, *, trust_remote_code: bool = False, log: Path | None = None) -> Engine:
        """One engine, or `replicas` of them. Raises UserError where there are too few GPUs for the replicas."""
        if self.replicas == 1:
            return VllmEngine(self, trust_remote_code=trust_remote_code, log=log)
        devices = device_groups(self.replicas, self.tensor_parallel)
        return Replicas(
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
    """An Engine. On a GPU, options are passed through to vLLM; that has been reviewed, not run.

    `devices`: which GPUs it sees, as numbers of those that this process sees; None = all.
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
        self._own_log: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._shape = ""
        self._asleep = False
        self._starting: Path | None = None  # the policy that it was told to start with; it has not answered yet
        self._ends: list[int] = []

    def prepare(self, policy: Path) -> None:
        if self._process is None:
            policy = policy.resolve()
            self._launch(policy, _shape(policy))

    def load(self, policy: Path) -> None:
        """Start the engine, or renew its weights where they are when `policy` has the same architecture and tokenizer.

        Raises UserError for settings that this machine or policy does not allow, EngineError when vLLM fails.
        """
        policy = policy.resolve()
        shape = _shape(policy)
        self._ends = end_tokens(policy, trust_remote_code=self._trust_remote_code)
        if self._process is not None and (self._shape != shape or self._process.poll() is not None):
            self.close()
        if self._process is None:
            self._launch(policy, shape)
        if self._starting is not None:
            begun = self._starting
            self._await_start()
            if begun == policy:
                return
        if self._asleep:
            self._call("wake")
            self._asleep = False
        self._call("reload", policy=str(policy))

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        if self._process is None or self._asleep:
            raise RuntimeError("load a policy before sampling")
        drawn = self._call(
            "sample",
            prompts=[request.prompt_ids for request in requests],
            seeds=[request.seed for request in requests],
            sampling={
                "n": sampling.responses,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "max_tokens": sampling.max_tokens,
                "stop": sampling.stop,
                "detokenize": bool(sampling.stop),
                "logprobs": 0,  # of the sampled token only
                # End tokens are ours to say, or the two engines would stop at different ones.
                "ignore_eos": True,
                "stop_token_ids": self._ends,
            },
        )
        samples = [[Sample(ids, logprobs, finish_reason=reason) for ids, logprobs, reason in row] for row in drawn]
        unknown = {sample.finish_reason for row in samples for sample in row} - {"stop", "length"}
        if unknown:
            raise EngineError(f"vLLM ended responses for reasons that are none of ours: {sorted(unknown)}")
        return samples

    def pause(self) -> None:
        if self._settings.between_stages == "stop":
            self.close()
        elif self._settings.between_stages == "sleep" and self._process is not None and not self._asleep:
            self._await_start()
            # Level 1 keeps the weights in host memory. Not run on a GPU.
            self._call("sleep")
            self._asleep = True

    def close(self) -> None:
        """End the worker and its process group; its log goes with it, unless an error has named it."""
        self._end()
        if self._own_log is not None:
            self._own_log.unlink(missing_ok=True)
            self._log = self._own_log = None

    def _end(self) -> None:
        process, self._process, self._asleep, self._starting = self._process, None, False, None
        if process is None:
            return
        end_group(process)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def _launch(self, policy: Path, shape: str) -> None:
        """Start the process and tell it to start its engine; `_await_start` waits for that."""
        self.check(policy)
        on_cpu = not has_gpu()
        if self._log is None:
            handle, name = tempfile.mkstemp(prefix="irepo-vllm-", suffix=".log")
            os.close(handle)
            self._log = self._own_log = Path(name)
        with open(self._log, "wb") as log:
            self._process = start_group(
                [sys.executable, "-m", "tasks.generation.vllm_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(
                    on_cpu=on_cpu,
                    enforce_eager=self._settings.enforce_eager,
                    tensor_parallel=self._settings.tensor_parallel,
                )
                | visible_devices(self._devices),
                cwd=_ROOT,
            )
        self._shape, self._starting = shape, policy
        with self._ended_by_errors():
            self._send("start", options=self._options(policy, on_cpu))

    def _await_start(self) -> None:
        if self._starting is not None:
            self._starting = None
            with self._ended_by_errors():
                self._receive("start", self._settings.start_timeout)

    def check(self, policy: Path) -> None:
        """Refuse, before anything starts, what this machine cannot do: no vLLM, or too little memory (on a CPU)."""
        check_installed(where="engine.kind=vllm", remedy="sample with transformers: engine=transformers")
        if not has_gpu():
            self._check_cpu(policy)

    def _check_cpu(self, policy: Path) -> None:
        settings = self._settings
        if settings.between_stages == "sleep":
            raise UserError(
                "vLLM can sleep on a GPU only",
                where="engine.between_stages=sleep",
                remedy="keep the engine between stages, or stop it: engine.between_stages=keep (or stop)",
            )
        check_memory(
            policy,
            settings.dtype,
            kv_cache_gib=settings.kv_cache_gib,
            tensor_parallel=settings.tensor_parallel,
            where="engine",
        )

    def _options(self, policy: Path, on_cpu: bool) -> dict[str, Any]:
        """Keyword arguments of vllm.LLM."""
        settings = self._settings
        options: dict[str, Any] = {
            "model": str(policy),
            "dtype": settings.dtype,
            "max_model_len": settings.max_model_len,
            "enforce_eager": settings.enforce_eager,
            "tensor_parallel_size": settings.tensor_parallel,
            "trust_remote_code": self._trust_remote_code,
            "generation_config": "vllm",  # sampling is what settings say, not what came with the policy
            "enable_sleep_mode": settings.between_stages == "sleep",
            "seed": 0,
        }
        return options | memory_options(
            on_cpu=on_cpu,
            kv_cache_gib=settings.kv_cache_gib,
            gpu_memory_utilization=settings.gpu_memory_utilization,
        )

    def _call(self, operation: str, **arguments: Any) -> Any:
        """Send one request and wait for its reply."""
        with self._ended_by_errors():
            self._send(operation, **arguments)
            return self._receive(operation)

    @contextmanager
    def _ended_by_errors(self) -> Iterator[None]:
        """Whatever goes wrong inside, the worker is ended: its state is unknown."""
        try:
            yield
        except BaseException:
            self._end()
            if self._own_log is not None:
                self._log = self._own_log = None  # it stays where the error says
            raise

    def _send(self, operation: str, **arguments: Any) -> None:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"operation": operation, "arguments": arguments}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._death(process, operation) from None

    def _receive(self, operation: str, timeout: float | None = None) -> Any:
        process = self._running()
        assert process.stdout is not None
        if not wait([process.stdout.fileno()], timeout):
            raise UserError(
                f"vLLM was not ready after {timeout:g} s\n{self._tail()}",
                where=f"engine.start_timeout={timeout:g}",
                remedy="raise engine.start_timeout, or set engine.enforce_eager=true to start without compiling",
            )
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death(process, operation)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise self._explain(operation, reply["type"], reply["error"])
        return reply["result"]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EngineError("the vLLM worker is not running")
        return self._process

    def _death(self, process: subprocess.Popen[bytes], operation: str) -> EngineDied:
        code = process.wait()
        hint = " (often: out of memory)" if code == -9 else ""
        how = f"by signal {-code}{hint}" if code < 0 else f"with exit code {code}"
        return EngineDied(f"the vLLM worker ended {how} during {operation!r}; the end of {self._log}:\n{self._tail()}")

    def _explain(self, operation: str, kind: str, message: str) -> Exception:
        """The worker's error as one that the user can mend, where it is known to be one."""
        first = message.strip().splitlines()[0]
        if operation == "start" and "KV cache is needed" in message.replace("\n", " "):
            return UserError(
                f"the KV cache does not hold one sequence of the context's length: {first}",
                where=f"engine.kv_cache_gib={self._settings.kv_cache_gib:g} (CPU), engine.gpu_memory_utilization (GPU)",
                remedy="lower engine.max_model_len to what prompts and responses need, or give the cache more memory",
            )
        if operation == "start" and "memory" in message.lower():
            return UserError(
                f"vLLM has too little memory: {first}",
                where=f"engine.kv_cache_gib={self._settings.kv_cache_gib:g} (CPU), engine.gpu_memory_utilization (GPU)",
                remedy="lower engine.kv_cache_gib or engine.gpu_memory_utilization, or end other programs",
            )
        if operation == "start" and "max_model_len" in message:
            return UserError(
                f"vLLM refuses the context: {message.strip()}",
                where=f"engine.max_model_len={self._settings.max_model_len}",
                remedy="leave engine.max_model_len at null (the policy's context), or lower it",
            )
        if operation == "start" and "architectures" in message and "not supported" in message:
            return UserError(
                f"vLLM does not know this kind of policy: {first}",
                where="policy, engine.kind=vllm",
                remedy="sample with transformers: engine=transformers",
            )
        return EngineError(f"vLLM failed at {operation!r}: {kind}: {message}\nthe end of {self._log}:\n{self._tail()}")

    def _tail(self) -> str:
        if self._log is None:
            return ""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:])


def _shape(policy: Path) -> str:
    """Digest of what must be equal for one policy's weights to fit where another's are: config and tokenizer."""
    config = json.loads((policy / "config.json").read_text(encoding="utf-8"))
    for name in ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"):
        config.pop(name, None)
    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
    return digest([config, {name: sha256_file(policy / name) for name in files if (policy / name).is_file()}])
