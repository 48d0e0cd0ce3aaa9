"""Reward models: a transformers sequence classifier with one label, fitted to pairs by the Bradley-Terry loss.

    python -m tasks.training.reward_model <policy> runs/<name>/round-01/label/preferences.parquet <output>

-log sigmoid(r(prompt, chosen) - r(prompt, rejected)), as in Ouyang et al. 2022 (arXiv 2203.02155), eq. 1. The score is
of the whole conversation, prompt and reply, rendered once by the chat template and ending with the end-of-turn token;
whoever scores with the folder renders it the same way (`encode_scored`).
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from storage.errors import UserError
from storage.schemas import PREFERENCES, read_parquet
from storage.stage import Progress, silent
from tasks.training.supervised import SupervisedSettings, encode, optimize, pad_right, save_folder, seeded

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardTrainingSettings(SupervisedSettings):
    """As for supervised fine-tuning; a row is a pair, and `seed` also draws a new score head."""

    learning_rate: float = Field(1e-5, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "linear"


def encode_scored(
    tokenizer: "PreTrainedTokenizerBase", prompt: str | Sequence[Mapping[str, str]], reply: str
) -> list[int]:
    """Token ids of the conversation that is scored: prompt (one user message, or messages), reply and its end token.

    Raises UserError for a chat template that `supervised.encode` cannot use.
    """
    return encode(tokenizer, {"prompt": prompt, "completion": reply}).ids


def scores(model: "PreTrainedModel", conversations: Sequence[Sequence[int]]) -> "torch.Tensor":
    """float32 [len(conversations)], differentiable: one forward over right-padded `encode_scored` conversations.

    transformers reads the score at the last token that is not config.pad_token_id, so padding must be that token.
    """
    ids = pad_right(conversations, _pad(model)).to(model.device)
    mask = pad_right([[1] * len(row) for row in conversations], 0).to(model.device)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[:, 0].float()


def _pad(model: "PreTrainedModel") -> int:
    pad = model.config.pad_token_id
    if pad is None or model.config.num_labels != 1:
        raise UserError(
            f"pad_token_id is {pad} and num_labels {model.config.num_labels}: not a reward model's configuration",
            where="config.json of the reward model",
            remedy="set pad_token_id to the tokenizer's pad token (not its end token) and num_labels to 1",
        )
    return int(pad)


def train_reward_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Mapping[str, Any]],
    settings: RewardTrainingSettings,
    progress: Progress = silent,
) -> list[float]:
    """Train `model` in place on {prompt, chosen, rejected}; the loss of every step, nats per pair.

    `prompt` is a string or a list of messages, `chosen` and `rejected` are replies as strings. Raises UserError for no
    pairs, a conversation over max_length tokens, and a model that is not a one-label classifier with a pad token.
    """
    from torch.nn import functional as F

    from tasks.modeling.load import autocast
    from tasks.modeling.logprobs import TokenSequence, batches

    _pad(model)
    if not pairs:
        raise UserError("there is nothing to train on", where="reward pairs", remedy="give at least one pair")
    encoded = [
        tuple(encode_scored(tokenizer, pair["prompt"], pair[side]) for side in ("chosen", "rejected")) for pair in pairs
    ]
    lengths = [max(map(len, pair)) for pair in encoded]
    for number, length in enumerate(lengths, start=1):
        if length > settings.max_length:
            raise UserError(
                f"a conversation has {length} tokens, max_length is {settings.max_length}",
                where=f"reward pairs, pair {number}",
                remedy="raise max_length or leave the pair out; nothing is cut silently",
            )
    device = str(model.device)

    def backward(indices: list[int]) -> float:
        loss = 0.0
        longest = [TokenSequence([], max(encoded[i], key=len)) for i in indices]
        for part in batches(longest, settings.microbatch_tokens // 2):
            chosen = [encoded[indices[i]][0] for i in part]
            rejected = [encoded[indices[i]][1] for i in part]
            with autocast(device, settings.dtype):
                both = scores(model, chosen + rejected)
            total = -F.logsigmoid(both[: len(part)] - both[len(part) :]).sum() / len(indices)
            total.backward()
            loss += total.item()
        return loss

    return optimize(model, lengths, backward, settings, progress)


def fit_reward_model(
    start: Path,
    pairs: Sequence[Mapping[str, Any]],
    output: Path,
    settings: RewardTrainingSettings,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> list[float]:
    """Train a reward model from the folder `start` (a policy, or a reward model) and write it to `output`.

    A policy's language-model head is replaced by a new score head. Weights are trained and saved in float32. Returns
    the loss of every step. Raises UserError as `train_reward_model`, and for a tokenizer without a pad token.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from tasks.modeling.load import check_policy_folder, load_tokenizer, resolve_device

    check_policy_folder(start, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(start, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"the tokenizer's pad token is {tokenizer.pad_token!r}: a conversation's end would look like padding",
            where=str(start / "tokenizer_config.json"),
            remedy="give the tokenizer a pad_token of its own, different from eos_token",
        )
    with seeded(settings.seed):
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            start,
            num_labels=1,
            pad_token_id=tokenizer.pad_token_id,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    model = loaded.to(resolve_device(device))
    losses = train_reward_model(model, tokenizer, pairs, settings, progress)
    save_folder(model, tokenizer, output)
    return losses


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """Prompt (messages), chosen and rejected reply of every pair of a preferences.parquet that is no tie.

    Chosen is what the target says: the first where it is above 0, else the second. Raises UserError for another file.
    """
    try:
        rows = read_parquet(path, PREFERENCES, ["prompt", "chosen", "rejected", "target"]).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(
            f"the preferences cannot be read: {error}",
            where=str(path),
            remedy="give the preferences.parquet of a label or mix stage",
        ) from None
    pairs = []
    for row in rows:
        better, worse = ("chosen", "rejected") if row["target"] > 0 else ("rejected", "chosen")
        if row["target"]:
            texts = {"chosen": row[better][-1]["content"], "rejected": row[worse][-1]["content"]}
            pairs.append({"prompt": row["prompt"]} | texts)
    return pairs


def main() -> None:
    """The command: a reward model of what a panel, or people, said. It can sit on the next panel."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("start", type=Path, help="folder of a policy, or of a reward model to go on from")
    parser.add_argument("preferences", type=Path, help="preferences.parquet of a round")
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    words = vars(parser.parse_args())
    start, preferences, output = (words.pop(name) for name in ("start", "preferences", "output"))
    try:
        losses = fit_reward_model(start, read_pairs(preferences), output, RewardTrainingSettings(**words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{output}   {len(losses)} steps, loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")


if __name__ == "__main__":
    main()
