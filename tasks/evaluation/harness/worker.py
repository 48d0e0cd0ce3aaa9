"""The process that runs lm-eval: a policy is loaded once, then one task or group after the other is asked.

Started by process.py with one JSON object on stdin (`Order`); says one line a finished task on stdout: {"done": name},
or {"error": ..., "type": ..., "task": ...} before it leaves. A process of its own, because lm-eval and vLLM take over
logging and seeds, and because their memory comes back only when it ends.
"""

import json
import os
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from tasks.processes import die_with_parent

_NEED_SKLEARN = {"f1", "mcc"}  # lm-eval's metrics that scikit-learn computes


class Refused(Exception):
    """Something that the user has to mend; the text says how."""


def main() -> None:
    die_with_parent()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints goes to the log
    order = json.loads(sys.stdin.readline())
    try:
        _work(order, replies)
    except Exception as error:
        traceback.print_exc()
        _say(replies, {"error": str(error) or repr(error), "type": type(error).__name__})
    sys.stderr.flush()
    os._exit(0)  # interpreter shutdown with vLLM and torch loaded takes seconds and can hang


def _say(replies: IO[str], message: dict[str, Any]) -> None:
    print(json.dumps(message), file=replies, flush=True)


def _work(order: dict[str, Any], replies: IO[str]) -> None:
    if order["backend"] == "vllm":
        from tasks.evaluation.harness.vllm_name import name_vllm

        name_vllm()
    work = Path(order["work"])
    manager = _tasks(order)
    names = {task["task"]: _where(manager, task["task"], order["data"], work) for task in order["tasks"]}
    for task in order["tasks"]:
        _check(manager, task, names[task["task"]])
    model = _load(order)
    for task in order["tasks"]:
        _run(order, manager, model, task, names[task["task"]], work / task["task"])
        _say(replies, {"done": task["task"]})


def _tasks(order: dict[str, Any]) -> Any:
    """lm-eval's index of tasks. Reading the thousands that it brings takes seconds: only where one of them is asked."""
    from lm_eval.tasks import TaskManager

    metadata = dict(order["model_args"])
    if order["include"]:
        own = TaskManager(include_path=order["include"], include_defaults=False, metadata=metadata)
        if {task["task"] for task in order["tasks"]} <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=order["include"], metadata=metadata)


def _where(manager: Any, name: str, data: dict[str, str], work: Path) -> str:
    """The task's name; with a data file of the user's, the path of a YAML file that is the task's but for its data."""
    entry = manager.task_index.get(name)
    if entry is None:
        import difflib

        close = difflib.get_close_matches(name, manager.all_tasks, n=3)
        raise Refused(f"lm-eval has no task {name!r}" + (f"; the closest are {', '.join(close)}" if close else ""))
    if name in manager.all_tags:
        raise Refused(f"{name!r} is a tag, which lm-eval gives no score: name its tasks, or a group")
    if name not in data:
        return name
    if entry.yaml_path is None or name in manager.all_groups:
        raise Refused(f"{name!r} is a group: a data file can only be given to a single task")
    path = work / f"{name}.yaml"
    own = {"include": str(Path(entry.yaml_path).resolve()), "task": name, "dataset_path": "json",
           "dataset_name": None, "dataset_kwargs": {"data_files": {"test": data[name]}}}  # fmt: skip
    path.write_text(json.dumps(own), encoding="utf-8")  # JSON is YAML
    return str(path)


def _check(manager: Any, task: dict[str, Any], where: str) -> None:
    """Load the task (its data is fetched here) and refuse what would fail only after hours of asking."""
    loaded = manager.load([where])["tasks"]
    for name, each in loaded.items():
        metrics = [metric["metric"] for metric in each.config.metric_list or []]
        missing = _NEED_SKLEARN & {metric for metric in metrics if isinstance(metric, str)}
        if missing and find_spec("sklearn") is None:
            raise Refused(f"{name}: its metric {', '.join(sorted(missing))} needs scikit-learn, which is not installed")


def _load(order: dict[str, Any]) -> Any:
    from lm_eval.api.registry import get_model

    if order["backend"] == "vllm":
        return get_model("vllm").create_from_arg_obj(order["model_args"], {"batch_size": "auto"})
    device = order["device"]
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return get_model("hf").create_from_arg_obj(
        order["model_args"], {"batch_size": order["batch_size"], "device": device}
    )


def _run(order: dict[str, Any], manager: Any, model: Any, task: dict[str, Any], where: str, folder: Path) -> None:
    """One task or group; leaves results_*.json and samples_*.jsonl below `folder`, as lm-eval names them."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from torch.utils import collect_env

    # What lm-eval would ask the machine about itself takes seconds a task, and is not kept.
    collect_env.get_pretty_env_info = lambda: ""
    tracker = EvaluationTracker(output_path=str(folder))
    vllm = order["backend"] == "vllm"
    results = simple_evaluate(
        model=model,
        model_args=order["model_args"],
        tasks=[where],
        num_fewshot=task["num_fewshot"],
        batch_size="auto" if vllm else order["batch_size"],
        limit=order["limit"],
        apply_chat_template=order["chat_template"],
        fewshot_as_multiturn=order["chat_template"] or None,  # as the command line has it
        evaluation_tracker=tracker,
        task_manager=manager,
    )
    samples = results.pop("samples")
    results["config"]["model"] = tracker.general_config_tracker.model_source = "vllm" if vllm else "hf"
    results["config"]["model_sha"] = order["policy"]  # lm-eval: the hub's commit; here the digest of the folder
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])


if __name__ == "__main__":
    main()
