"""Supervised fine-tuning: cross-entropy on the assistant's tokens of conversations.

Reads rows {"messages": [...]} or {"prompt": ..., "completion": ...}, any Hugging Face causal-language-model folder, and
writes one. Prompts are tokenised exactly as for generation (chat template once, then the assistant's text after it), so
the policy later continues the very token ids it was tuned on.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.errors import UserError
from storage.files import publish_folder
from storage.stage import Progress, silent

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SupervisedSettings(BaseModel):
    """How long and how fast to train. Exactly one of `epochs` and `steps` says how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(2e-5, gt=0)  # the peak
    epochs: int | None = Field(None, ge=1)  # passes over the rows
    steps: int | None = Field(None, ge=1)  # optimizer steps; rows are repeated as needed
    batch_size: int = Field(32, ge=1)  # rows (or pairs) in one optimizer step
    microbatch_tokens: int = Field(16384, ge=1)  # padded tokens in one forward; a step accumulates over them
    warmup_ratio: float = Field(0.03, ge=0, lt=1)  # of all steps
    schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up, down to zero
    weight_decay: float = Field(0.0, ge=0)  # on matrices only
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(2048, ge=2)  # tokens; longer rows are refused
    seed: int = 0  # order of the rows
    dtype: Literal["float32", "bfloat16"] = "float32"  # autocast dtype; weights are held in float32

    @model_validator(mode="after")
    def _one_duration(self) -> "SupervisedSettings":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        return self

    def total_steps(self, rows: int) -> int:
        """Optimizer steps for `rows` rows."""
        return self.steps or (self.epochs or 0) * math.ceil(rows / self.batch_size)


@dataclass(frozen=True)
class Example:
    """One tokenised conversation: `ids`, and for each id whether it is an assistant's token (trained on)."""

    ids: list[int]
    trained: list[bool]


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of a row: `messages`, or `prompt` + `completion`, each a string or a list of messages.

    A string prompt is one user message and a string completion one assistant message, as prompts are everywhere else.
    Raises UserError (without a row number) for other columns.
    """
    if "messages" in row:
        return list(row["messages"])
    if "prompt" in row and "completion" in row:
        turns: list[dict[str, str]] = []
        for role, part in (("user", row["prompt"]), ("assistant", row["completion"])):
            turns += [{"role": role, "content": part}] if isinstance(part, str) else list(part)
        return turns
    raise UserError(
        f"a training row has neither `messages` nor `prompt` and `completion`, but {sorted(row)}",
        where="supervised rows",
        remedy='write rows as {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}',
    )


def encode(tokenizer: "PreTrainedTokenizerBase", row: Mapping[str, Any]) -> Example:
    """Token ids of a row, and the mask of assistant tokens: each assistant turn's text with its end-of-turn token.

    Raises UserError when there is no assistant turn, when the chat template rewrites earlier turns (a prefix of the
    conversation must be a prefix of its text), or when it does not end a turn with the tokenizer's end token.
    """
    turns = conversation(row)
    ids: list[int] = []
    trained: list[bool] = []
    text = ""

    def append(piece: str, learn: bool) -> None:
        tokens: list[int] = tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
        ids.extend(tokens)
        trained.extend([learn] * len(tokens))

    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = str(tokenizer.apply_chat_template(turns[:index], tokenize=False, add_generation_prompt=True))
        after = str(tokenizer.apply_chat_template(turns[: index + 1], tokenize=False))
        end = after.rfind(tokenizer.eos_token or "\0", len(before)) + len(tokenizer.eos_token or "")
        if not before.startswith(text) or not after.startswith(before):
            raise _refuse_template("the chat template renders earlier turns anew when turns follow")
        if end < len(before):
            raise _refuse_template(f"the chat template does not end the assistant's turn with {tokenizer.eos_token!r}")
        append(before[len(text) :], False)
        append(after[len(before) : end], True)
        text = after[:end]
    if not any(trained):
        raise UserError(
            "a conversation has no assistant turn to learn from",
            where=f"supervised rows: {str(turns)[:200]}",
            remedy="give each row at least one message with the role 'assistant'",
        )
    return Example(ids, trained)


def _refuse_template(what: str) -> UserError:
    return UserError(
        what,
        where="the policy's chat template",
        remedy="use single-turn rows, or a template that only appends and ends turns with the tokenizer's eos_token",
    )


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Mapping[str, Any]], max_length: int
) -> list[Example]:
    """`encode` of every row. Raises UserError for no rows and for a row longer than `max_length` tokens."""
    if not rows:
        raise UserError("there is nothing to train on", where="supervised rows", remedy="give at least one row")
    examples = [encode(tokenizer, row) for row in rows]
    for number, example in enumerate(examples, start=1):
        if len(example.ids) > max_length:
            raise UserError(
                f"a conversation has {len(example.ids)} tokens, max_length is {max_length}",
                where=f"supervised rows, row {number}",
                remedy="raise max_length or shorten the row; nothing is cut silently",
            )
    return examples


def length_buckets(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """`steps` batches of row indices, rows of like length together; every epoch has its own order, seeded.

    Each epoch is shuffled, cut into windows of 64 batches, sorted by length within a window, and the batches of the
    whole epoch are shuffled: little padding, and each row once an epoch.
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
    """Learning rate of optimizer step `step` (from 0) of `total`: linear warm-up, then the schedule, down to zero."""
    warmup = round(settings.warmup_ratio * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    left = 1 - (step - warmup) / (total - warmup)
    shape = {"cosine": 0.5 * (1 - math.cos(math.pi * left)), "linear": left, "constant": 1.0}[settings.schedule]
    return settings.learning_rate * shape


def optimize(
    model: "PreTrainedModel",
    lengths: Sequence[int],
    backward: Callable[[list[int]], float],
    settings: SupervisedSettings,
    progress: Progress = silent,
) -> list[float]:
    """AdamW over length-bucketed batches. `backward(indices)` leaves gradients and returns the batch's loss.

    `lengths`: tokens of each row (pair). Returns the loss of every step. The model is in training mode during it and in
    eval mode after. Raises FloatingPointError at the first loss that is not finite.
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
        betas=(0.9, 0.95),  # usual for language models: 0.999 remembers longer than a short run lasts
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
    """torch's global generator, seeded inside and put back after: weight initialisation takes no other."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def pad_right(rows: Sequence[Sequence[int]], value: int) -> "torch.Tensor":
    """int64 [len(rows), longest], `value` after each row's end."""
    import torch

    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def train_supervised(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Mapping[str, Any]],
    settings: SupervisedSettings,
    progress: Progress = silent,
) -> list[float]:
    """Train `model` in place; returns the loss of every step: nats per assistant token, mean over the batch's tokens.

    The gradient divides by the tokens of an average batch, not of this one: batches hold rows of like length, and a
    mean over each would weigh the tokens of short replies more and teach the policy to be brief.
    Raises UserError for rows that cannot be used (see `encode_rows`).
    """
    from torch.nn import functional as F

    from tasks.modeling.load import autocast
    from tasks.modeling.logprobs import TokenSequence, batches

    examples = encode_rows(tokenizer, rows, settings.max_length)
    average = sum(sum(example.trained) for example in examples) / len(examples)
    device = str(model.device)
    pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)

    def backward(indices: list[int]) -> float:
        chosen = [examples[i] for i in indices]
        tokens = sum(sum(example.trained) for example in chosen)
        loss = 0.0
        for part in batches([TokenSequence([], example.ids) for example in chosen], settings.microbatch_tokens):
            ids = pad_right([chosen[i].ids for i in part], pad).to(device)
            mask = pad_right([[1] * len(chosen[i].ids) for i in part], 0).to(device)
            learn = pad_right([chosen[i].trained for i in part], 0)[:, 1:].bool().to(device)
            with autocast(device, settings.dtype):
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            total = F.cross_entropy(logits[:, :-1][learn].float(), ids[:, 1:][learn], reduction="sum")
            (total / (average * len(indices))).backward()
            loss += total.item() / tokens
        return loss

    return optimize(model, [len(example.ids) for example in examples], backward, settings, progress)


def save_folder(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write model and tokenizer as an ordinary Hugging Face folder, whole or not at all."""
    with publish_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def supervise(
    policy: Path,
    rows: Sequence[Mapping[str, Any]],
    output: Path,
    settings: SupervisedSettings,
    *,
    chat_template: Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> list[float]:
    """Fine-tune the causal language model in the folder `policy` and write the result, with its tokenizer, to `output`.

    `chat_template`: a Jinja file that replaces the tokenizer's template, or gives one to a policy that has none.
    Weights are trained and saved in float32; generation_config.json comes to stop at the end token that was trained.
    Returns the loss of every step. Raises UserError for a folder that is no policy and for unusable rows.
    """
    from tasks.modeling.load import check_policy_folder, load_policy, load_tokenizer

    check_policy_folder(policy, trust_remote_code=trust_remote_code, chat_template=chat_template is None)
    tokenizer = load_tokenizer(policy, trust_remote_code=trust_remote_code)
    if chat_template is not None:
        tokenizer.chat_template = chat_template.read_text(encoding="utf-8")
    model = load_policy(policy, dtype="float32", device=device, trust_remote_code=trust_remote_code)
    losses = train_supervised(model, tokenizer, rows, settings, progress)
    generation: Any = model.generation_config
    ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    generation.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *(end for end in ends if end is not None)]))
    save_folder(model, tokenizer, output)
    return losses
