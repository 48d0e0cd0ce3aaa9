"""lm-eval in a child process: this side starts it, follows it, and ends it."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.child_process import Child, ChildDied, ChildFailed
from tasks.evaluation.harness.settings import HarnessSpec, HarnessTask
from tasks.evaluation.harness.worker import MODULE, Evaluate, ModelArguments, TaskDone
from tasks.modeling.vllm_process import (
    check_installed,
    check_memory,
    damaged_cache,
    environment_of,
    has_gpu,
    memory_options,
)


class HarnessDied(Exception):
    """The process that runs lm-eval died. The message ends with the last lines of its log."""


class HarnessFailed(Exception):
    """lm-eval raised an error that is not known to be the user's. The message ends with the last lines of its log."""


def ask(spec: HarnessSpec, tasks: Sequence[HarnessTask], work: Path) -> Iterator[str]:
    """Run `tasks`. Yields the name of each when it is done; its files are in `work`/<name>.

    Raises UserError for unknown tasks, missing data and too little memory; HarnessDied, HarnessFailed.
    """
    log = spec.folder / "harness.log"
    request = _request(spec, tasks, work)
    child = Child("lm-eval", [sys.executable, "-m", MODULE], log=log, env=_environment(spec))
    try:
        child.send(request)
        for _ in tasks:
            yield child.receive(TaskDone).task
    except ChildDied as died:
        raise HarnessDied(str(died)) from None
    except ChildFailed as failed:
        if damaged := damaged_cache(failed.text, where="harness.backend=vllm"):
            raise damaged from None
        raise HarnessFailed(str(failed)) from None
    finally:
        child.end()
    log.unlink(missing_ok=True)


def _environment(spec: HarnessSpec) -> dict[str, str]:
    if spec.settings.harness.backend == "transformers":
        return dict(os.environ) | {"TOKENIZERS_PARALLELISM": "false"}
    variables = environment_of(spec.settings.model)
    if "HF_HUB_OFFLINE" not in os.environ:
        variables.pop("HF_HUB_OFFLINE")  # the model is a folder, but tasks download their data
    return variables


def _request(spec: HarnessSpec, tasks: Sequence[HarnessTask], work: Path) -> Evaluate:
    harness = spec.settings.harness
    return Evaluate(
        policy_digest=spec.policy.digest,
        backend=harness.backend,
        model_args=_model_args(spec),
        device=spec.settings.model.device,
        tasks=list(tasks),
        include=[folder.resolve() for folder in harness.include],
        data={task: path.resolve() for task, path in harness.data.items()},
        batch_size=harness.batch_size,
        chat_template=harness.chat_template,
        limit=harness.limit,
        work=work.resolve(),
    )


def _model_args(spec: HarnessSpec) -> ModelArguments:
    """lm-eval's model_args: `--model_args` of its command line."""
    model = spec.settings.model
    policy = str(spec.policy.path.resolve())
    shared: ModelArguments = {
        "pretrained": policy,
        "dtype": model.dtype,
        "trust_remote_code": model.trust_remote_code,
    }
    if spec.settings.harness.backend == "transformers":
        return shared | ({"max_length": model.max_model_len} if model.max_model_len else {})
    check_installed(where="harness.backend=vllm", remedy="run it with transformers: harness.backend=transformers")
    check_memory(spec.policy.path, model, where="engine")
    sizes = memory_options(
        on_cpu=not has_gpu(), kv_cache_gib=model.kv_cache_gib, gpu_memory_utilization=model.gpu_memory_utilization
    )
    context = {"max_model_len": model.max_model_len} if model.max_model_len else {}
    return shared | context | sizes | {
        "enforce_eager": model.enforce_eager,
        "tensor_parallel_size": model.tensor_parallel,
        "generation_config": "vllm",  # lm-eval decides how to sample, not the policy's generation_config.json
    }  # fmt: skip
