"""One epoch over the same pairs by this project's trainer and by TRL's DPOTrainer, in its three set-ups."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.training.world import build_model
from tasks.training.groups import PromptGroup

if TYPE_CHECKING:
    from trl import DPOTrainer

    from tasks.training.examples import Example

BETA, RATE = 0.1, 1e-6
TRL_BATCH = 4  # pairs in one forward; eight are slower here


@dataclass
class Work:
    """What every arm does: one epoch over `groups`, `step` groups in an optimizer step."""

    groups: list[PromptGroup]
    step: int
    vocabulary: int
    bf16: bool = False
    device: str = "cpu"

    @property
    def pairs(self) -> int:
        return sum(len(group.pairs) for group in self.groups)


@dataclass
class Epoch:
    """CPU seconds (on a GPU, wall seconds), tokens through the layers with padding, norm of the first gradient."""

    seconds: float
    tokens: int
    gradient: float
    reference_seconds: float = field(default=0.0)


#: Prepares an epoch and returns the function that is timed.
Arm = Callable[[Work], Callable[[], Epoch]]


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@contextmanager
def counted(model: torch.nn.Module) -> Iterator[list[int]]:
    """Count the positions that go through the model's first layer with gradients; the sum is the list's only item."""
    total = [0]

    def count(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            total[0] += arguments[0].shape[0] * arguments[0].shape[1]

    hook = model.get_submodule("model.layers.0").register_forward_pre_hook(count)
    try:
        yield total
    finally:
        hook.remove()


def ours(work: Work) -> Callable[[], Epoch]:
    """Packed rows, cached reference; the train stage's own step."""
    from accelerate import Accelerator

    from tasks.training.batching import PackedForward
    from tasks.training.groups import windows
    from tasks.training.loop import Step, accumulate
    from tasks.training.objectives.dpo import Dpo
    from tasks.training.optimizer import build_optimizer, trainable
    from tasks.training.reference import compute
    from tasks.training.settings import OptimizationSettings

    settings = OptimizationSettings(learning_rate=RATE, dtype="bfloat16" if work.bf16 else "float32")
    model = build_model(work.vocabulary).to(work.device)
    forward = PackedForward(model, settings.microbatch_tokens)
    accelerator = Accelerator(cpu=work.device == "cpu", mixed_precision="bf16" if work.bf16 else "no")
    objective = Dpo(beta=BETA)
    started = clock(work.device)
    values = compute(forward, work.groups, accelerator.autocast)["logprob"].to_numpy()
    spent = clock(work.device) - started
    parameters = trainable(model)
    optimizer = build_optimizer(parameters, settings)
    data = _examples(work.groups, values)

    def run() -> Epoch:
        norms = []
        started = clock(work.device)
        with counted(model) as tokens:
            for indices in windows(len(data), work.step, seed=0, epoch=0):
                window = [data[i] for i in indices]
                accumulate(forward, window, objective, accelerator=accelerator, step=Step())
                norms.append(float(accelerator.clip_grad_norm_(list(parameters.values()), 1.0)))
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return Epoch(clock(work.device) - started, tokens[0], norms[0], spent)

    return run


def _examples(groups: Sequence[PromptGroup], values: np.ndarray) -> "list[Example]":
    """Groups with their reference log-probabilities, cut from `values` [responses of all groups]."""
    from tasks.training.examples import Example
    from tasks.training.label_columns import LabeledGroup
    from tasks.training.reference import Logprobs

    result, start = [], 0
    for group in groups:
        end = start + len(group.responses)
        result.append(Example(LabeledGroup(group), Logprobs(values[start:end])))
        start = end
    return result


def trl(*, cached: bool, recompute: bool, grouped: bool = False, response_only: bool = False) -> Arm:
    """TRL's DPOTrainer. `response_only` patches its head to skip prompts and padding, as it does on a GPU."""

    def prepare(work: Work) -> Callable[[], Epoch]:
        trainer = _trainer(work, cached=cached, recompute=recompute, grouped=grouped)

        def run() -> Epoch:
            assert trainer.model is not None
            with _head_of_responses(response_only), counted(trainer.model) as tokens:
                started = clock(work.device)
                trainer.train()
                seconds = clock(work.device) - started
            norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
            return Epoch(seconds, tokens[0] // (1 + recompute), norms[0] if norms else float("nan"))

        return run

    return prepare


@contextmanager
def _head_of_responses(wanted: bool) -> Iterator[None]:
    from trl.trainer import utils

    before = utils._use_triton
    utils._use_triton = (lambda device: True) if wanted else before  # read there only to choose the positions
    try:
        yield
    finally:
        utils._use_triton = before


def _trainer(work: Work, *, cached: bool, recompute: bool, grouped: bool) -> "DPOTrainer":
    import tempfile

    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    class Prepared(DPOTrainer):
        def _prepare_dataset(self, dataset: Dataset, *rest: object) -> Dataset:
            return dataset  # it has token ids already

    rows = [
        {
            "prompt_ids": group.prompt_ids.tolist(),
            "chosen_ids": group.responses[pair.chosen].tolist(),
            "rejected_ids": group.responses[pair.rejected].tolist(),
            "length": len(group.prompt_ids) + max(len(group.responses[i]) for i in (pair.chosen, pair.rejected)),
        }
        for group in work.groups
        for pair in group.pairs
    ]
    pairs = work.step * len(work.groups[0].pairs)
    arguments = DPOConfig(
        output_dir=tempfile.mkdtemp(prefix="irepo-trl-"),
        per_device_train_batch_size=TRL_BATCH,
        gradient_accumulation_steps=pairs // TRL_BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        beta=BETA,
        loss_type=["sigmoid"],
        max_length=None,
        bf16=work.bf16,
        use_cpu=work.device == "cpu",
        gradient_checkpointing=recompute,
        precompute_ref_log_probs=cached,
        train_sampling_strategy="group_by_length" if grouped else "random",
        remove_unused_columns=False,
        optim="adamw_torch_fused",
        logging_steps=1 << 20,
        logging_first_step=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, "<pad>")),
        pad_token="<pad>",
        eos_token="<end>",
    )
    model = build_model(work.vocabulary)
    return Prepared(
        model=model,
        ref_model=None if cached else build_model(work.vocabulary),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


OURS = "irepo"
BEST = "TRL, cached reference, grouped by length, response-only head"
CACHED = "TRL, cached reference"
DEFAULTS = "TRL's defaults"
ARMS: dict[str, Arm] = {
    OURS: ours,
    BEST: trl(cached=True, recompute=False, grouped=True, response_only=True),
    CACHED: trl(cached=True, recompute=False),
    DEFAULTS: trl(cached=False, recompute=True),
}
