"""What a process with a vLLM engine needs of its machine: memory, environment, options. Used by policies and judges."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from storage.errors import UserError
from tasks.modeling.memory import GIB, available_memory, weight_bytes

_OVERHEAD = GIB  # what the process takes besides weights and KV cache (0.9 GiB measured on a CPU)


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def check_installed(*, where: str, remedy: str) -> None:
    if find_spec("vllm") is None:
        raise UserError("vLLM is not installed", where=where, remedy=f"install it (make setup), or {remedy}")


def check_memory(model: Path, dtype: str, *, kv_cache_gib: float, tensor_parallel: int, where: str) -> None:
    """Refuse, before anything starts, a model that this machine's memory (not a GPU's) does not hold.

    `where` is the dotted name of the engine's settings.
    """
    weights = weight_bytes(model, dtype)
    # Every tensor-parallel worker has a KV cache of its own; the weights are divided among them.
    need = weights + tensor_parallel * (int(kv_cache_gib * GIB) + _OVERHEAD)
    free = available_memory()
    if need > free:
        raise UserError(
            f"the engine would need {need / GIB:.1f} GiB ({weights / GIB:.1f} GiB of weights,"
            f" {kv_cache_gib:g} GiB of KV cache, and itself) and {free / GIB:.1f} GiB are free",
            where=f"{where}.kv_cache_gib={kv_cache_gib:g}",
            remedy=f"lower {where}.kv_cache_gib, end other programs, or choose a smaller model or {where}.dtype",
        )


def memory_options(*, on_cpu: bool, kv_cache_gib: float, gpu_memory_utilization: float) -> dict[str, Any]:
    """Keyword arguments of vllm.LLM that say how much memory it takes, and what a CPU cannot do."""
    if on_cpu:
        # A prompt prefilled in two steps makes vLLM 0.32 rewind the request's generator, which torch cannot do on
        # a CPU ("CPU Generator does not use offset"); so prompts are prefilled whole.
        return {"kv_cache_memory_bytes": int(kv_cache_gib * GIB), "enable_chunked_prefill": False}
    return {"gpu_memory_utilization": gpu_memory_utilization}


def environment(*, on_cpu: bool, enforce_eager: bool, tensor_parallel: int) -> dict[str, str]:
    """The environment of the process, from this one's."""
    variables = dict(os.environ) | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # the model is a folder
        "TOKENIZERS_PARALLELISM": "false",
        "NO_COLOR": "1",
    }
    if not on_cpu:
        return variables
    variables.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB only, and it would win over kv_cache_gib
    if enforce_eager:
        # vLLM compiles two helpers of its sampler even so: seconds at the first request, for nothing here.
        variables["TORCHDYNAMO_DISABLE"] = "1"
    # Threads that wait by spinning made sampling 25 times slower on two cores shared with another process; bound
    # threads (vLLM's "auto") share badly too. vLLM takes one thread where OMP_NUM_THREADS is not set.
    variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    variables.setdefault("OMP_NUM_THREADS", str(_cores() // tensor_parallel or 1))
    variables.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return variables


def visible_devices(devices: Sequence[int] | None) -> dict[str, str]:
    """The environment that leaves a process `devices` of the GPUs that this one sees; None = all. Not run on GPUs."""
    if devices is None:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(max(devices) + 1)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[device] for device in devices)}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
