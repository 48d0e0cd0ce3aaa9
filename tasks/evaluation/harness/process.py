"""lm-eval in a process group of its own: this side starts it, reads what it says, and ends it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.errors import UserError
from tasks.evaluation.harness.settings import HarnessSpec, HarnessTask
from tasks.modeling.vllm_process import check_installed, check_memory, environment, has_gpu, memory_options
from tasks.processes import end_group, start_group

_ROOT = Path(__file__).resolve().parents[3]
_LOG_TAIL = 30  # lines of the worker's log in an error


class HarnessDied(Exception):
    """The process that runs lm-eval ended by itself; the message says how, with the end of its log."""


class HarnessFailed(Exception):
    """lm-eval raised something that is not known to be the user's; with the end of its log."""


def ask(spec: HarnessSpec, tasks: Sequence[HarnessTask], work: Path) -> Iterator[str]:
    """Run `tasks`; yields the name of each as it is done, its files in `work`/<name>.

    Raises UserError for unknown tasks, data that cannot be had and too little memory; HarnessDied, HarnessFailed.
    """
    log = spec.folder / "harness.log"
    with open(log, "wb") as stream:
        process = start_group(
            [sys.executable, "-m", "tasks.evaluation.harness.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=_environment(spec),
            cwd=_ROOT,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(_order(spec, tasks, work)).encode() + b"\n")
        process.stdin.flush()
        for _ in tasks:
            line = process.stdout.readline()
            if not line.endswith(b"\n"):
                code = process.wait()
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                raise HarnessDied(f"lm-eval ended {how}; the end of {log}:\n{_tail(log)}")
            said = json.loads(line)
            if "error" in said:
                raise _explain(said, log)
            yield said["done"]
    finally:
        end_group(process)
        process.stdin.close()
        process.stdout.close()
    log.unlink(missing_ok=True)  # nothing went wrong


def _environment(spec: HarnessSpec) -> Mapping[str, str]:
    model = spec.settings.model
    if spec.settings.harness.backend == "vllm":
        shaped = environment(
            on_cpu=not has_gpu(), enforce_eager=model.enforce_eager, tensor_parallel=model.tensor_parallel
        )
        if "HF_HUB_OFFLINE" not in os.environ:
            shaped.pop("HF_HUB_OFFLINE")  # the model is a folder, but tasks fetch their data
        return shaped
    return dict(os.environ) | {"TOKENIZERS_PARALLELISM": "false"}


def _order(spec: HarnessSpec, tasks: Sequence[HarnessTask], work: Path) -> dict[str, Any]:
    harness = spec.settings.harness
    return {
        "policy": spec.policy.digest,
        "backend": harness.backend,
        "model_args": _model_args(spec),
        "device": spec.settings.model.device,
        "tasks": [task.model_dump(mode="json") for task in tasks],
        "include": [str(folder.resolve()) for folder in harness.include],
        "data": {task: str(path.resolve()) for task, path in harness.data.items()},
        "batch_size": harness.batch_size,
        "chat_template": harness.chat_template,
        "limit": harness.limit,
        "work": str(work.resolve()),
    }


def _model_args(spec: HarnessSpec) -> dict[str, Any]:
    """lm-eval's model_args: `--model_args` of its command line."""
    model = spec.settings.model
    policy = str(spec.policy.path.resolve())
    shared: dict[str, Any] = {"pretrained": policy, "dtype": model.dtype, "trust_remote_code": model.trust_remote_code}
    if spec.settings.harness.backend == "transformers":
        return shared | ({"max_length": model.max_model_len} if model.max_model_len else {})
    check_installed(where="harness.backend=vllm", remedy="ask through transformers: harness.backend=transformers")
    on_cpu = not has_gpu()
    if on_cpu:
        check_memory(
            spec.policy.path,
            model.dtype,
            kv_cache_gib=model.kv_cache_gib,
            tensor_parallel=model.tensor_parallel,
            where="engine",
        )
    sizes = memory_options(
        on_cpu=on_cpu, kv_cache_gib=model.kv_cache_gib, gpu_memory_utilization=model.gpu_memory_utilization
    )
    context = {"max_model_len": model.max_model_len} if model.max_model_len else {}
    return shared | context | sizes | {
        "enforce_eager": model.enforce_eager,
        "tensor_parallel_size": model.tensor_parallel,
        "generation_config": "vllm",  # lm-eval says how to sample, not what came with the policy
    }  # fmt: skip


def _explain(said: dict[str, Any], log: Path) -> Exception:
    if said["type"] == "Refused":
        return UserError(
            said["error"], where="harness.tasks", remedy="name tasks of lm-eval (`lm_eval ls tasks`) or of include"
        )
    if said["type"] in ("ModuleNotFoundError", "ImportError"):
        return UserError(
            f"a task of lm-eval needs a package that is not installed: {said['error']}",
            where="harness.tasks",
            remedy="install it with uv pip install, or leave the task out",
        )
    if said["type"] in ("ConnectionError", "LocalEntryNotFoundError", "OfflineModeIsEnabled", "DatasetNotFoundError",
                        "FileNotFoundError"):  # fmt: skip
        return UserError(
            f"the data of a task cannot be had: {said['error'].splitlines()[0]}",
            where="harness.tasks",
            remedy="check the connection and HF_TOKEN, or give local tasks: harness.include, harness.data",
        )
    return HarnessFailed(f"lm-eval failed: {said['type']}: {said['error']}\nthe end of {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:])
