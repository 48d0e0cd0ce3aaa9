"""Settings and spec of the train stage."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.artifact import Artifact
from storage.stage import Spec, TaskName
from tasks.modeling.vllm_process import has_gpu
from tasks.training.objectives.registry import AnyObjective, own_source

#: Folder of checkpoints inside the folder of an unfinished train stage.
CHECKPOINTS = "checkpoints"


class LoraSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(16, ge=1)  # of the two matrices of an adapter
    alpha: float = Field(32.0, gt=0)  # an adapter's product is scaled by alpha / rank
    dropout: float = Field(0.0, ge=0, le=0)  # must be 0: log-ratios need a deterministic policy
    target_modules: str | list[str] = "all-linear"  # names of the layers that get adapters, as peft reads them


class OptimizationSettings(BaseModel):
    """Optimization of the objective. The unit of data is a prompt with its responses and labeled pairs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Not part of the key of a train stage: they change the update by rounding at most.
    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "checkpoint_steps",
            "checkpoint_minutes",
            "keep_checkpoints",
            "gradient_checkpointing",
            "launch",
            "processes",
            "launcher",
        }
    )

    learning_rate: float = Field(5e-7, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    final_fraction: float = Field(0.1, ge=0, le=1)  # of the peak learning rate, reached at the last step
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(1, ge=1)
    prompts_per_step: int = Field(16, ge=1)  # prompts (with all their responses) per optimizer step
    microbatch_tokens: int = Field(8192, ge=1)  # tokens (plain: padded) per forward; gradients accumulate over the step
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # autocast dtype; weights stay in float32
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    checkpoint_steps: int = Field(50, ge=1)  # at most so many optimizer steps between checkpoints,
    checkpoint_minutes: float = Field(15.0, gt=0)  # and about so much time: a round may have few, long steps
    keep_checkpoints: int = Field(2, ge=1)  # the newest ones while training; a finished stage has none
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batching: Literal["packed", "plain"] = "packed"  # packed: several groups per row, each prompt and response once
    # process: in a process group that frees its memory at its end. auto: that on a GPU, inline on a CPU.
    launch: Literal["auto", "inline", "process"] = "auto"
    processes: int = Field(1, ge=1)  # one per GPU of this machine
    launcher: str | None = None  # replaces torchrun as the command that starts the processes, for several machines

    @model_validator(mode="after")
    def _launched(self) -> "OptimizationSettings":
        if self.launch == "inline" and (self.processes > 1 or self.launcher):
            raise ValueError("several processes or a launcher need launch=process")
        if self.processes > 1 and self.launcher:
            raise ValueError("the launcher sets the number of processes: leave processes at 1")
        return self

    def in_child(self) -> bool:
        """Whether training runs in a process of its own on this machine."""
        if self.launch != "auto":
            return self.launch == "process"
        return self.processes > 1 or self.launcher is not None or (self.device != "cpu" and has_gpu())


class TrainingSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: AnyObjective
    optimization: OptimizationSettings
    trust_remote_code: bool = False


class TrainSpec(Spec):
    """One round of training: from `policy` (pi_t) to `folder`/policy (pi_t+1)."""

    stage: ClassVar[str] = "train"
    version: ClassVar[int] = 2

    runs: ClassVar[str] = "tasks.training.launch:launch"
    task: ClassVar[TaskName] = "train"

    settings: TrainingSettings
    policy: Artifact  # pi_t, the starting point
    reference: Artifact  # pi_0 or pi_t, as set by objective.reference
    preferences: Artifact  # preferences.parquet of this round
    scores: dict[int, Artifact] = Field({})  # round -> scores.parquet of its label stage, if the objective needs it
    votes: dict[int, Artifact] = Field(
        {}
    )  # round -> counted_votes.parquet of its label stage, if the objective needs it
    extra: Artifact | None = None  # folder of a generate stage with one extra response per prompt, for selm and xpo
    embedder: Artifact | None = None  # the local sentence encoder that the objective names
    mixture: float | None = None  # share of the reference in the mixture that responses were sampled from, for ipo-md
    first_half: int | None = None  # responses below this index are in the first half, if the objective asks for halves

    @property
    def inputs(self) -> dict[str, str]:
        """The digest of every artifact that is read, and of the file that defines a user's own objective."""
        source = own_source(type(self.settings.objective))
        return super().inputs | ({"objective": source} if source else {})

    @property
    def starts_at_reference(self) -> bool:
        """Whether policy and reference have the same content or the same folder."""
        same_folder = self.policy.path.resolve() == self.reference.path.resolve()
        return same_folder or self.policy.digest == self.reference.digest
