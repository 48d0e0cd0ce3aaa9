"""Supervised fine-tuning: cross-entropy on the assistant's tokens of conversations.

Trains any Hugging Face causal language model on rows as `tasks.training.conversations` reads them.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.files import publish_folder
from storage.stage import Progress, silent
from tasks.modeling.chat_template import TemplateValues, fix_template
from tasks.modeling.conversation import turn_end
from tasks.training.conversations import encode_rows, pad_right

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SupervisedSettings(BaseModel):
    """Settings of supervised training. Exactly one of `epochs` and `steps` is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(2e-5, gt=0)  # peak
    epochs: int | None = Field(None, ge=1)  # passes over the rows
    steps: int | None = Field(None, ge=1)  # optimizer steps; rows are repeated as needed
    batch_size: int = Field(32, ge=1)  # rows (or pairs) per optimizer step
    microbatch_tokens: int = Field(16384, ge=1)  # padded tokens per forward; gradients accumulate over the step
    warmup_ratio: float = Field(0.03, ge=0, lt=1)  # of all steps
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up; linear and cosine end at zero
    weight_decay: float = Field(0.0, ge=0)  # on matrices only
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(2048, ge=2)  # tokens; longer rows are an error
    seed: int = 0  # order of the rows
    dtype: Literal["float32", "bfloat16"] = "float32"  # autocast dtype; weights stay in float32

    @model_validator(mode="after")
    def _one_duration(self) -> "SupervisedSettings":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self

    def total_steps(self, rows: int) -> int:
        """Optimizer steps for `rows` rows."""
        return self.steps or (self.epochs or 0) * math.ceil(rows / self.batch_size)


def length_buckets(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """`steps` batches of row indices. Batches hold rows of similar length; each epoch has its own seeded order.

    Each epoch's rows are shuffled and sorted by length within windows of 64 batches; then its batches are shuffled.
    This keeps padding low, and each row occurs once per epoch.
    """
    epoch = 0
    while steps > 0:
        rng = random.Random(f"{seed}:{epoch}")
        order = rng.sample(range(len(lengths)), len(lengths))
        window = 64 * batch_size
        by_length = [
            index
            for start in range(0, len(order), window)
            for index in sorted(order[start : start + window], key=lambda i: lengths[i])
        ]
        batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
        rng.shuffle(batches)
        yield from batches[:steps]
        steps -= len(batches)
        epoch += 1


def rate_at(step: int, total: int, settings: SupervisedSettings) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`: linear warm-up, then the schedule."""
    warmup = round(settings.warmup_ratio * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    remaining = 1 - (step - warmup) / (total - warmup)
    shapes = {"cosine": 0.5 * (1 - math.cos(math.pi * remaining)), "linear": remaining, "constant": 1.0}
    return settings.learning_rate * shapes[settings.schedule]


def optimize(
    model: "PreTrainedModel",
    lengths: Sequence[int],
    backward: Callable[[list[int]], float],
    settings: SupervisedSettings,
    progress: Progress = silent,
) -> list[float]:
    """AdamW over length-bucketed batches. `backward(indices)` accumulates gradients and returns the batch's loss.

    `lengths`: tokens of each row (or pair). Returns the loss of every step. The model trains in training mode and ends
    in eval mode. Raises FloatingPointError at the first loss that is not finite.
    """
    import torch

    total = settings.total_steps(len(lengths))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),  # usual for language models; 0.999 averages over more steps than a short run has
        fused=True,
    )
    losses: list[float] = []
    model.train()
    for step, batch in enumerate(length_buckets(lengths, settings.batch_size, total, settings.seed)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, total, settings)
        losses.append(backward(batch))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]} at step {step + 1} of {total}")
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress(step + 1, total, "steps")
    model.eval()
    return losses


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, which weight initialization uses, and restore its state afterwards."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def train_supervised(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Mapping[str, Any]],
    settings: SupervisedSettings,
    progress: Progress = silent,
    *,
    sources: Sequence[str] | None = None,
) -> list[float]:
    """Train `model` in place. Returns the loss of every step: nats per assistant token, mean over the batch's tokens.

    sources: file and line of each row, for error messages.

    The gradient divides by the token count of an average batch. Batches hold rows of similar length, so dividing by
    each batch's own count would give the tokens of short replies more weight and teach the policy to be brief.
    Raises UserError for unusable rows (see `encode_rows`).
    """
    from torch.nn import functional as F

    from tasks.modeling.load import autocast
    from tasks.modeling.logprobs import TokenSequence, batches

    conversations = encode_rows(tokenizer, rows, settings.max_length, sources)
    average = sum(sum(encoded.trained) for encoded in conversations) / len(conversations)
    device = str(model.device)
    pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)

    def backward(indices: list[int]) -> float:
        batch = [conversations[i] for i in indices]
        tokens = sum(sum(encoded.trained) for encoded in batch)
        loss = 0.0
        for part in batches([TokenSequence([], encoded.ids) for encoded in batch], settings.microbatch_tokens):
            ids = pad_right([batch[i].ids for i in part], pad).to(device)
            mask = pad_right([[1] * len(batch[i].ids) for i in part], 0).to(device)
            trained = pad_right([batch[i].trained for i in part], 0)[:, 1:].bool().to(device)
            with autocast(device, settings.dtype):
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            total = F.cross_entropy(logits[:, :-1][trained].float(), ids[:, 1:][trained], reduction="sum")
            (total / (average * len(indices))).backward()
            loss += total.item() / tokens
        return loss

    return optimize(model, [len(encoded.ids) for encoded in conversations], backward, settings, progress)


def save_folder(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write model and tokenizer as an ordinary Hugging Face folder, atomically."""
    from tasks.modeling.save import save_model

    with publish_folder(folder) as temporary:
        save_model(model, temporary)
        tokenizer.save_pretrained(temporary)


def fine_tune(
    policy: Path,
    rows: Sequence[Mapping[str, Any]],
    output: Path,
    settings: SupervisedSettings,
    *,
    chat_template: Path | None = None,
    template: TemplateValues | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = silent,
    sources: Sequence[str] | None = None,
) -> list[float]:
    """Fine-tune the causal language model in the folder `policy` and write it, with its tokenizer, to `output`.

    `chat_template`: a Jinja file that replaces the tokenizer's template, or adds one. `template`: what is fixed in it.
    `sources`: file and line of each row, for error messages. Weights are trained and saved in float32, and the token
    that ends turns in the template is added to the end tokens in generation_config.json. Returns the loss of every
    step. Raises UserError for a folder that is not a policy and for unusable rows.
    """
    from tasks.modeling.load import check_policy_folder, load_policy, load_tokenizer

    check_policy_folder(policy, trust_remote_code=trust_remote_code, chat_template=chat_template is None)
    tokenizer = load_tokenizer(policy, trust_remote_code=trust_remote_code)
    if chat_template is not None:
        tokenizer.chat_template = chat_template.read_text(encoding="utf-8")
    fix_template(tokenizer, template or TemplateValues(), where=str(chat_template or policy))
    model = load_policy(policy, dtype="float32", device=device, trust_remote_code=trust_remote_code)
    losses = train_supervised(model, tokenizer, rows, settings, progress, sources=sources)
    generation: Any = model.generation_config
    ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    ends = [turn_end(tokenizer).token_id, tokenizer.eos_token_id, *ends]
    generation.eos_token_id = list(dict.fromkeys(end for end in ends if end is not None))
    save_folder(model, tokenizer, output)
    return losses
