"""What a process with a vLLM engine needs: memory, environment, options. Used for policies, judges and the harness."""

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from storage.errors import UserError
from tasks.child_process import Message
from tasks.loopback import over_loopback
from tasks.modeling.load import Dtype
from tasks.modeling.memory import GIB, available_memory, weight_bytes

#: An unreadable file in vLLM's cache of compiled code, as Python reports it; `entry` is what one model's start wrote.
_UNREADABLE = re.compile(r"ImportError: (?P<entry>/.*?/torch_compile_cache/(?:torch_aot_compile/)?[^/\n]+)/[^\n]*")
_OVERHEAD = GIB  # memory of the process besides weights and KV cache (0.9 GiB measured on a CPU)


class VllmShape(Protocol):
    """Settings that decide how vLLM runs a model, whoever it runs it for."""

    @property
    def dtype(self) -> Dtype: ...
    @property
    def max_model_len(self) -> int | None: ...
    @property
    def enforce_eager(self) -> bool: ...
    @property
    def tensor_parallel(self) -> int: ...
    @property
    def kv_cache_gib(self) -> float: ...
    @property
    def gpu_memory_utilization(self) -> float: ...


class VllmOptions(Message):
    """Keyword arguments of vllm.LLM."""

    model: str
    dtype: Dtype
    max_model_len: int | None
    enforce_eager: bool
    tensor_parallel_size: int
    trust_remote_code: bool
    generation_config: Literal["vllm"] = "vllm"  # our settings decide how to sample, not generation_config.json
    enable_sleep_mode: bool
    seed: int = 0
    # One of these two groups, see `memory_options`.
    kv_cache_memory_bytes: int | None = None
    enable_chunked_prefill: bool | None = None
    gpu_memory_utilization: float | None = None

    @classmethod
    def of(
        cls, model: Path, settings: VllmShape, *, trust_remote_code: bool = False, sleep_mode: bool = False
    ) -> "VllmOptions":
        return cls(
            model=str(model),
            dtype=settings.dtype,
            max_model_len=settings.max_model_len,
            enforce_eager=settings.enforce_eager,
            tensor_parallel_size=settings.tensor_parallel,
            trust_remote_code=trust_remote_code,
            enable_sleep_mode=sleep_mode,
            **memory_options(
                on_cpu=not has_gpu(),
                kv_cache_gib=settings.kv_cache_gib,
                gpu_memory_utilization=settings.gpu_memory_utilization,
            ),
        )

    def arguments(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def check_installed(*, where: str, remedy: str) -> None:
    if find_spec("vllm") is None:
        raise UserError("vLLM is not installed", where=where, remedy=f"install it (make setup), or {remedy}")


def check_memory(model: Path, settings: VllmShape, *, where: str) -> None:
    """Refuse, before anything starts, a model that does not fit into this machine's memory. Not checked on a GPU.

    `where` is the dotted name of the settings.
    """
    if has_gpu():
        return
    weights = weight_bytes(model, settings.dtype)
    # Every tensor-parallel process has its own KV cache; the weights are divided among them.
    needed = weights + settings.tensor_parallel * (int(settings.kv_cache_gib * GIB) + _OVERHEAD)
    free = available_memory()
    if needed > free:
        raise UserError(
            f"vLLM needs {needed / GIB:.1f} GiB ({weights / GIB:.1f} GiB of weights,"
            f" {settings.kv_cache_gib:g} GiB of KV cache, and overhead), and {free / GIB:.1f} GiB are free",
            where=f"{where}.kv_cache_gib={settings.kv_cache_gib:g}",
            remedy=f"lower {where}.kv_cache_gib, end other programs, or choose a smaller model or {where}.dtype",
        )


def damaged_cache(text: str, *, where: str) -> UserError | None:
    """The error of a start that read a damaged cache of compiled code; None if `text`, vLLM's error, says otherwise.

    A start that is killed while it compiles leaves such a file, and every later start would fail in the same way.
    """
    if (found := _UNREADABLE.search(text)) is None:
        return None
    return UserError(
        f"vLLM's cache of compiled code is damaged, as a killed start leaves it: {found[0].strip()}",
        where=where,
        remedy=f"remove the folder {found['entry']}, then give the same command again; vLLM compiles anew",
    )


def memory_options(*, on_cpu: bool, kv_cache_gib: float, gpu_memory_utilization: float) -> dict[str, Any]:
    """Keyword arguments of vllm.LLM for how much memory it uses, and for what it cannot do on a CPU."""
    if on_cpu:
        # If a prompt is prefilled in two steps, vLLM 0.32 rewinds the request's generator, which torch cannot do on a
        # CPU ("CPU Generator does not use offset"). So each prompt is prefilled in one step.
        return {"kv_cache_memory_bytes": int(kv_cache_gib * GIB), "enable_chunked_prefill": False}
    return {"gpu_memory_utilization": gpu_memory_utilization}


def environment(*, on_cpu: bool, enforce_eager: bool, tensor_parallel: int) -> dict[str, str]:
    """The environment of a process with vLLM: this process's, changed."""
    variables = dict(os.environ) | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # the model is a folder
        "TOKENIZERS_PARALLELISM": "false",
        "NO_COLOR": "1",
        **over_loopback(),
    }
    if not on_cpu:
        return variables
    variables.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB only, and it overrides kv_cache_gib
    if enforce_eager:
        # With enforce_eager, vLLM still compiles two helpers of its sampler: seconds at the first request.
        variables["TORCHDYNAMO_DISABLE"] = "1"
    # Threads that spin while they wait made sampling 25 times slower on two cores shared with another process; bound
    # threads (vLLM's "auto") share badly too. vLLM uses one thread if OMP_NUM_THREADS is not set.
    variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    variables.setdefault("OMP_NUM_THREADS", str(_cores() // tensor_parallel or 1))
    variables.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return variables


def environment_of(settings: VllmShape) -> dict[str, str]:
    """`environment` on this machine, with `settings`."""
    return environment(
        on_cpu=not has_gpu(), enforce_eager=settings.enforce_eager, tensor_parallel=settings.tensor_parallel
    )


def visible_devices(devices: Sequence[int] | None) -> dict[str, str]:
    """The variable that restricts a process to `devices` of the GPUs this one sees; None = all. Not run on GPUs."""
    if devices is None:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(max(devices) + 1)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[device] for device in devices)}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
