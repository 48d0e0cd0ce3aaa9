"""Settings and spec of the harness stage. This module does not import lm-eval."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from storage.artifact import Artifact
from storage.errors import UserError
from storage.stage import KeyedBy, Spec, TaskName


class HarnessTask(BaseModel):
    """One task or group of lm-eval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+-]*$")
    num_fewshot: int | None = Field(None, ge=0)  # None = the task's default
    metric: str | None = None  # the one to report: `acc_norm`, or with its filter `exact_match,strict-match`


def _named(task: Any) -> Any:
    return {"task": task} if isinstance(task, str) else task


class HarnessSettings(BaseModel):
    """Which tasks to run, and how. Without tasks the harness is not run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[Annotated[HarnessTask, BeforeValidator(_named)]] = []  # names, or {task, num_fewshot, metric}
    include: Annotated[list[Path], KeyedBy("include")] = []  # folders with further tasks' YAML files
    #: Task -> the file to read its split `test` from, instead of the one in its YAML file.
    data: Annotated[dict[str, Path], KeyedBy("data")] = {}
    backend: Literal["vllm", "transformers"] = "vllm"  # what lm-eval samples with
    batch_size: int = Field(8, ge=1)  # transformers; vLLM makes its own batches
    chat_template: bool = False  # wrap questions in the policy's chat template
    limit: int | None = Field(None, ge=1)  # the first so many documents of each task

    @model_validator(mode="after")
    def _consistent(self) -> "HarnessSettings":
        names = [task.task for task in self.tasks]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tasks: {', '.join(repeated)} is listed twice")
        if unknown := sorted(set(self.data) - set(names)):
            raise ValueError(f"data: {', '.join(unknown)} is not one of the tasks")
        return self


class ModelSettings(BaseModel):
    """How lm-eval loads the policy, in the terms of the run's engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operational: ClassVar[frozenset[str]] = frozenset({"gpu_memory_utilization", "kv_cache_gib"})

    dtype: Literal["float32", "bfloat16", "float16"]
    device: Literal["auto", "cpu", "cuda"] = "auto"  # transformers
    max_model_len: int | None = None
    enforce_eager: bool = False
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.85
    kv_cache_gib: float = 4.0
    trust_remote_code: bool = False


class HarnessRunSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    harness: HarnessSettings
    model: ModelSettings


class HarnessSpec(Spec):
    """Run lm-eval's tasks on `policy`, with lm-eval's own seeds: its random choices are the same in every run."""

    stage: ClassVar[str] = "harness"
    version: ClassVar[int] = 1

    runs: ClassVar[str] = "tasks.evaluation.harness.stage:run"
    task: ClassVar[TaskName] = "evaluate"

    settings: HarnessRunSettings
    policy: Artifact
    lm_eval: str  # its version
    include: list[Artifact] = Field([])  # settings.harness.include
    data: dict[str, Artifact] = Field({})  # settings.harness.data


def harness_version() -> str | None:
    """The installed release of lm-eval; None if it is not installed."""
    try:
        return version("lm-eval")
    except PackageNotFoundError:
        return None


def check_harness(settings: HarnessSettings) -> None:
    """Raises UserError, before a run starts, when lm-eval or one of the files is missing."""
    if settings.tasks and harness_version() is None:
        raise UserError(
            "lm-eval is not installed",
            where="harness.tasks",
            remedy='install it (make setup, or uv pip install "lm-eval>=0.4.13,<0.5"), or use harness=none',
        )
    for folder in settings.include:
        if not folder.is_dir():
            raise UserError(
                "there is no such folder", where=f"harness.include={folder}", remedy="give an existing folder"
            )
    for task, path in settings.data.items():
        if not path.is_file():
            raise UserError(
                "there is no such file", where=f"harness.data.{task}={path}", remedy="give an existing JSONL file"
            )
