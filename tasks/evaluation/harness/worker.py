"""The child process that runs lm-eval, and its messages (see tasks.child_process).

It loads a policy once, then evaluates it on one task or group after the other. A process of its own, because lm-eval
and vLLM change logging and seeds, and free their memory only when the process ends.
"""

import difflib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from storage.errors import UserError
from tasks.child_process import Channel, Message, open_channel
from tasks.evaluation.harness.context import check_context, context_of
from tasks.evaluation.harness.settings import HarnessTask
from tasks.modeling.conversation import turn_end
from tasks.modeling.pretrained import read_config, read_tokenizer
from tasks.modeling.templates import bound_transformers

MODULE = "tasks.evaluation.harness.worker"
_NEED_SKLEARN = {"f1", "mcc"}  # lm-eval's metrics that scikit-learn computes
_NO_DATA = ("ConnectionError", "LocalEntryNotFoundError", "OfflineModeIsEnabled", "DatasetNotFoundError",
            "FileNotFoundError")  # fmt: skip

#: lm-eval's model_args.
ModelArguments = dict[str, str | int | float | bool]


class Evaluate(Message):
    """Run tasks on a policy. The only request. Reply: TaskDone after each task."""

    policy_digest: str
    backend: Literal["vllm", "transformers"]
    model_args: ModelArguments
    device: Literal["auto", "cpu", "cuda"]  # transformers
    tasks: list[HarnessTask]
    include: list[Path]
    data: dict[str, Path]
    batch_size: int
    chat_template: bool
    limit: int | None
    work: Path  # results of a task are written to work/<task>


class TaskDone(Message):
    task: str


def main() -> None:
    channel = open_channel()
    request = next(channel.requests(TypeAdapter(Evaluate)))
    try:
        _work(request, channel)
    except Exception as error:
        channel.fail(_explain(error))
    channel.leave()


def _explain(error: Exception) -> Exception:
    """`error` as a UserError, where it is known to be one."""
    text = str(error) or repr(error)
    if isinstance(error, ImportError):
        return UserError(
            f"a task of lm-eval needs a package that is not installed: {text}",
            where="harness.tasks",
            remedy="install it with uv pip install, or leave the task out",
        )
    if type(error).__name__ in _NO_DATA:
        return UserError(
            f"the data of a task is not available: {text.splitlines()[0]}",
            where="harness.tasks",
            remedy="check the connection and HF_TOKEN, or give local tasks: harness.include, harness.data",
        )
    return error


def _refusal(what: str) -> UserError:
    return UserError(
        what, where="harness.tasks", remedy="name tasks of lm-eval (`lm_eval ls tasks`) or of harness.include"
    )


def _work(request: Evaluate, channel: Channel) -> None:
    if request.backend == "vllm":
        from tasks.modeling.vllm_name import name_vllm

        name_vllm()
    manager = _tasks(request)
    sources = {task.task: _source(manager, task.task, request.data, request.work) for task in request.tasks}
    tokens, context = _tokenizer_and_context(request)
    for source in sources.values():
        _check(manager, source, tokens, context)
    bound_transformers()
    model = _load(request)
    if request.chat_template:
        end_at_turns(model)
    for task in request.tasks:
        _run(request, manager, model, task, sources[task.task], request.work / task.task)
        channel.send(TaskDone(task=task.task))


def _tasks(request: Evaluate) -> Any:
    """lm-eval's index of tasks. Reading the thousands of its own takes seconds: only if one of them is needed."""
    from lm_eval.tasks import TaskManager

    metadata = dict(request.model_args)
    include = [str(folder) for folder in request.include]
    if include:
        own = TaskManager(include_path=include, include_defaults=False, metadata=metadata)
        if {task.task for task in request.tasks} <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=include, metadata=metadata)


def _source(manager: Any, name: str, data: dict[str, Path], work: Path) -> str:
    """The task's name. With a data file of the user's: the path of a YAML file that is the task's except for its data.

    Raises UserError.
    """
    entry = manager.task_index.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, manager.all_tasks, n=3)
        raise _refusal(f"lm-eval has no task {name!r}" + (f"; the closest are {', '.join(close)}" if close else ""))
    if name in manager.all_tags:
        raise _refusal(f"{name!r} is a tag, for which lm-eval has no score: name its tasks, or a group")
    if name not in data:
        return name
    if entry.yaml_path is None or name in manager.all_groups:
        raise _refusal(f"{name!r} is a group: a data file can only be given to a single task")
    path = work / f"{name}.yaml"
    own = {"include": str(Path(entry.yaml_path).resolve()), "task": name, "dataset_path": "json",
           "dataset_name": None, "dataset_kwargs": {"data_files": {"test": str(data[name])}}}  # fmt: skip
    path.write_text(json.dumps(own), encoding="utf-8")  # JSON is YAML
    return str(path)


def _tokenizer_and_context(request: Evaluate) -> tuple[Callable[[str], int], int | None]:
    """A function that counts a text's tokens, and the policy's context; both without its weights."""
    folder, trusted = str(request.model_args["pretrained"]), request.model_args["trust_remote_code"] is True
    tokenizer = read_tokenizer(folder, trust_remote_code=trusted)
    config = read_config(folder, trust_remote_code=trusted)
    return lambda text: len(tokenizer(text)["input_ids"]), context_of(config, request.model_args)


def _check(manager: Any, source: str, tokens: Callable[[str], int], context: int | None) -> None:
    """Load the task, which downloads its data, and refuse what would otherwise fail after hours. Raises UserError."""
    loaded = manager.load([source])["tasks"]
    for name, task in loaded.items():
        metrics = [metric["metric"] for metric in task.config.metric_list or []]
        missing = _NEED_SKLEARN & {metric for metric in metrics if isinstance(metric, str)}
        if missing and find_spec("sklearn") is None:
            raise _refusal(
                f"{name}: its metric {', '.join(sorted(missing))} needs scikit-learn, which is not installed"
            )
        if context is not None:
            check_context(name, task, context, tokens)


def _load(request: Evaluate) -> Any:
    from lm_eval.api.registry import get_model

    if request.backend == "vllm":
        return get_model("vllm").create_from_arg_obj(request.model_args, {"batch_size": "auto"})
    device: str = request.device
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return get_model("hf").create_from_arg_obj(request.model_args, {"batch_size": request.batch_size, "device": device})


def end_at_turns(model: Any) -> None:
    """Have lm-eval end a reply at the token that ends a turn in the chat template, in place of eos_token.

    model: an lm-eval model. lm-eval adds the text of `eot_token_id` to each task's stop strings.
    """
    end = turn_end(model.tokenizer).token_id
    if end is not None:
        type(model).eot_token_id = property(lambda self: end)


def _run(request: Evaluate, manager: Any, model: Any, task: HarnessTask, source: str, folder: Path) -> None:
    """One task or group. Writes results_*.json and samples_*.jsonl below `folder`, as lm-eval names them."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from torch.utils import collect_env

    # lm-eval collects facts about the machine, which takes seconds per task and is not kept.
    collect_env.get_pretty_env_info = lambda: ""
    tracker = EvaluationTracker(output_path=str(folder))
    vllm = request.backend == "vllm"
    results = simple_evaluate(
        model=model,
        model_args=dict(request.model_args),
        tasks=[source],
        num_fewshot=task.num_fewshot,
        batch_size="auto" if vllm else request.batch_size,
        limit=request.limit,
        apply_chat_template=request.chat_template,
        fewshot_as_multiturn=request.chat_template or None,  # as on its command line
        evaluation_tracker=tracker,
        task_manager=manager,
    )
    samples = results.pop("samples")
    results["config"]["model"] = tracker.general_config_tracker.model_source = "vllm" if vllm else "hf"
    results["config"]["model_sha"] = request.policy_digest  # lm-eval: the commit on the hub; here the folder's digest
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])


if __name__ == "__main__":
    main()
