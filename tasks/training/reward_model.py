"""Reward models: a transformers sequence classifier with one label, trained on pairs with the Bradley-Terry loss.

    python -m tasks.training.reward_model <policy> runs/<name>/round-01/label/preferences.parquet <output>

The loss is -log sigmoid(r(prompt, chosen) - r(prompt, rejected)): Ouyang et al. 2022 (arXiv 2203.02155), eq. 1. The
score is for the whole conversation, rendered once by the chat template, and is read at its last token, as the panel's
annotator `reward_model` reads it. Render conversations with `encode_scored` to score them.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from pydantic import Field

from storage.errors import UserError
from storage.schemas import PREFERENCES, read_parquet
from storage.stage import Progress, silent
from tasks.modeling.chat_template import TemplateValues, fix_template
from tasks.modeling.conversation import RefusedConversation, encode_whole
from tasks.modeling.reasoning import split_reasoning
from tasks.training.conversations import pad_right
from tasks.training.supervised import SupervisedSettings, optimize, save_folder, seeded

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardTrainingSettings(SupervisedSettings):
    """Settings of reward-model training. A row is a pair; `seed` also initializes a new score head."""

    learning_rate: float = Field(1e-5, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "linear"


def encode_scored(
    tokenizer: "PreTrainedTokenizerBase", prompt: str | Sequence[Mapping[str, str]], reply: str
) -> list[int]:
    """Token ids of a conversation to score: prompt (a user message or a list of messages) and reply, rendered once.

    Raises RefusedConversation when the chat template refuses the conversation.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return encode_whole(tokenizer, messages, reply)


def scores(model: "PreTrainedModel", conversations: Sequence[Sequence[int]]) -> "torch.Tensor":
    """Scores of `encode_scored` conversations in one right-padded forward: float32 [N], differentiable.

    transformers reads the score at the last token that is not config.pad_token_id, so rows are padded with that token.
    Raises UserError for a model that is not a one-label classifier with a pad token.
    """
    ids = pad_right(conversations, _pad(model)).to(model.device)
    mask = pad_right([[1] * len(row) for row in conversations], 0).to(model.device)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[:, 0].float()


def _pad(model: "PreTrainedModel") -> int:
    pad = model.config.pad_token_id
    if pad is None or model.config.num_labels != 1:
        raise UserError(
            f"pad_token_id is {pad} and num_labels is {model.config.num_labels}: this is not a reward model",
            where="config.json of the reward model",
            remedy="set pad_token_id to a token that ends no conversation, and num_labels to 1",
        )
    return int(pad)


def train_reward_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Mapping[str, Any]],
    settings: RewardTrainingSettings,
    progress: Progress = silent,
) -> list[float]:
    """Train `model` in place on rows {prompt, chosen, rejected}. Returns the loss of every step, nats per pair.

    `prompt` is a string or a list of messages; `chosen` and `rejected` are replies as strings. Raises UserError for no
    pairs, a conversation over max_length tokens, and a model that is not a one-label classifier with a pad token.
    """
    from torch.nn import functional as F

    from tasks.modeling.load import autocast
    from tasks.modeling.logprobs import TokenSequence, batches

    _pad(model)
    if not pairs:
        raise UserError("there is nothing to train on", where="reward pairs", remedy="give at least one pair")
    encoded = [_encode_pair(tokenizer, pair, number) for number, pair in enumerate(pairs, start=1)]
    lengths = [max(map(len, pair)) for pair in encoded]
    for number, length in enumerate(lengths, start=1):
        if length > settings.max_length:
            raise UserError(
                f"a conversation has {length} tokens, max_length is {settings.max_length}",
                where=f"reward pairs, pair {number}",
                remedy="raise max_length or remove the pair; conversations are never truncated",
            )
    device = str(model.device)

    def backward(indices: list[int]) -> float:
        loss = 0.0
        longest = [TokenSequence([], max(encoded[i], key=len)) for i in indices]
        for part in batches(longest, settings.microbatch_tokens // 2):
            chosen = [encoded[indices[i]][0] for i in part]
            rejected = [encoded[indices[i]][1] for i in part]
            with autocast(device, settings.dtype):
                rewards = scores(model, chosen + rejected)
            total = -F.logsigmoid(rewards[: len(part)] - rewards[len(part) :]).sum() / len(indices)
            total.backward()
            loss += total.item()
        return loss

    return optimize(model, lengths, backward, settings, progress)


def _encode_pair(
    tokenizer: "PreTrainedTokenizerBase", pair: Mapping[str, Any], number: int
) -> tuple[list[int], list[int]]:
    """Token ids of the conversations with the chosen and with the rejected reply."""
    try:
        chosen, rejected = (encode_scored(tokenizer, pair["prompt"], pair[side]) for side in ("chosen", "rejected"))
    except RefusedConversation as refused:
        raise refused.at(f"reward pairs, pair {number}") from None
    return chosen, rejected


def _set_pad_token(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> int:
    """Give the tokenizer a pad token that ends no conversation, and return its id.

    transformers reads a score at the last token that is not padding. Many tokenizers pad with the token that ends a
    conversation (Phi-3's <|endoftext|>) or have no pad token; then the unknown or the beginning token is used.
    Raises UserError when there is no such token.
    """
    last = encode_scored(tokenizer, "a", "b")[-1]
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if isinstance(token, int) and token != last:
            tokenizer.pad_token = str(tokenizer.convert_ids_to_tokens(token))
            return token
    raise UserError(
        f"the tokenizer's pad token is {tokenizer.pad_token!r}, so a conversation's end would look like padding",
        where=str(folder / "tokenizer_config.json"),
        remedy="set pad_token of the tokenizer to a token that ends no conversation",
    )


def fit_reward_model(
    start: Path,
    pairs: Sequence[Mapping[str, Any]],
    output: Path,
    settings: RewardTrainingSettings,
    *,
    template: TemplateValues | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> list[float]:
    """Train a reward model from the folder `start` (a policy, or a reward model) and write it to `output`.

    `template`: what is fixed in its chat template, which is saved with the reward model. A new score head replaces a
    policy's language-model head. Weights are trained and saved in float32. Returns the loss of every step. Raises
    UserError as `train_reward_model` does, and for a tokenizer without a token to pad with.
    """
    import torch

    from tasks.modeling.load import check_policy_folder, load_tokenizer, resolve_device
    from tasks.modeling.pretrained import read_model

    check_policy_folder(start, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(start, trust_remote_code=trust_remote_code)
    fix_template(tokenizer, template or TemplateValues(), where=str(start))
    pad = _set_pad_token(tokenizer, start)
    with seeded(settings.seed):
        loaded: Any = read_model(
            "classifier",
            start,
            num_labels=1,
            pad_token_id=pad,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
        )[0]
    model = loaded.to(resolve_device(device))
    losses = train_reward_model(model, tokenizer, pairs, settings, progress)
    save_folder(model, tokenizer, output)
    return losses


class RewardPair(TypedDict):
    """One row for `train_reward_model`."""

    prompt: list[dict[str, str]]  # messages
    chosen: str
    rejected: str


def read_pairs(path: Path, reasoning_end: str | None = "</think>") -> list[RewardPair]:
    """All pairs of a preferences.parquet except ties, with the final answers of reasoning replies, as on the panel.

    The sign of the target decides which reply is chosen. Raises UserError for a file that cannot be read.
    """
    try:
        rows = read_parquet(path, PREFERENCES, ["prompt", "chosen", "rejected", "target"]).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(
            f"the preferences cannot be read: {error}",
            where=str(path),
            remedy="give the preferences.parquet of a label or mix stage",
        ) from None
    pairs: list[RewardPair] = []
    for row in rows:
        better, worse = ("chosen", "rejected") if row["target"] > 0 else ("rejected", "chosen")
        if row["target"]:
            replies = [split_reasoning(row[side][-1]["content"], reasoning_end)[1] for side in (better, worse)]
            pairs.append(RewardPair(prompt=row["prompt"], chosen=replies[0], rejected=replies[1]))
    return pairs


def main() -> None:
    """Train a reward model on the preferences of a panel or of people. It can be an annotator of the next panel."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("start", type=Path, help="folder of a policy, or of a reward model to train further")
    parser.add_argument("preferences", type=Path, help="preferences.parquet of a round")
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--template-date", type=date.fromisoformat, help="for a chat template that writes the date")
    options = vars(parser.parse_args())
    template = TemplateValues(date=options.pop("template_date"))
    start, preferences, output = (options.pop(name) for name in ("start", "preferences", "output"))
    try:
        losses = fit_reward_model(
            start, read_pairs(preferences), output, RewardTrainingSettings(**options), template=template
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{output}   {len(losses)} steps, loss {losses[0]:.3f} at the first, {losses[-1]:.3f} at the last")


if __name__ == "__main__":
    main()
