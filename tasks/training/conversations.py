"""Token ids of training conversations, with a mask of the assistant's tokens.

Rows are {"messages": [...]} or {"prompt": ..., "completion": ...}. Prompts are tokenized exactly as for generation: the
chat template is applied once, and the assistant's text follows. So the policy later continues the token ids that it was
trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizedConversation:
    """Token ids of a conversation."""

    ids: list[int]
    trained: list[bool]  # per id: whether it is an assistant's token, which the loss is computed on


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of a row: `messages`, or `prompt` + `completion`, each a string or a list of messages.

    A string prompt is one user message, a string completion one assistant message. Raises UserError (without a row
    number) for other columns.
    """
    if "messages" in row:
        return list(row["messages"])
    if "prompt" in row and "completion" in row:
        turns: list[dict[str, str]] = []
        for role, part in (("user", row["prompt"]), ("assistant", row["completion"])):
            turns += [{"role": role, "content": part}] if isinstance(part, str) else list(part)
        return turns
    raise UserError(
        f"a training row needs `messages`, or `prompt` and `completion`, but it has {sorted(row)}",
        where="supervised rows",
        remedy='write rows as {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}',
    )


def encode(tokenizer: "PreTrainedTokenizerBase", row: Mapping[str, Any]) -> TokenizedConversation:
    """Token ids of a row. The mask covers each assistant turn's text and its end-of-turn token.

    Raises UserError when there is no assistant turn, when the chat template rewrites earlier turns (a prefix of the
    conversation must be a prefix of its text), or when it does not end a turn with the tokenizer's eos_token.
    """
    turns = conversation(row)
    ids: list[int] = []
    trained: list[bool] = []
    text = ""

    def append(piece: str, is_trained: bool) -> None:
        tokens: list[int] = tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []
        ids.extend(tokens)
        trained.extend([is_trained] * len(tokens))

    for index, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = str(tokenizer.apply_chat_template(turns[:index], tokenize=False, add_generation_prompt=True))
        after = str(tokenizer.apply_chat_template(turns[: index + 1], tokenize=False))
        end = after.rfind(tokenizer.eos_token or "\0", len(before)) + len(tokenizer.eos_token or "")
        if not before.startswith(text) or not after.startswith(before):
            raise _refuse_template("the chat template changes the text of earlier turns when turns follow")
        if end < len(before):
            raise _refuse_template(f"the chat template does not end the assistant's turn with {tokenizer.eos_token!r}")
        append(before[len(text) :], False)
        append(after[len(before) : end], True)
        text = after[:end]
    if not any(trained):
        raise UserError(
            "a conversation has no assistant turn to train on",
            where=f"supervised rows: {str(turns)[:200]}",
            remedy="give each row at least one message with the role 'assistant'",
        )
    return TokenizedConversation(ids, trained)


def _refuse_template(problem: str) -> UserError:
    return UserError(
        problem,
        where="the policy's chat template",
        remedy="use single-turn rows, or a template that only appends and ends turns with the tokenizer's eos_token",
    )


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Mapping[str, Any]], max_length: int
) -> list[TokenizedConversation]:
    """`encode` every row. Raises UserError for no rows and for a row longer than `max_length` tokens."""
    if not rows:
        raise UserError("there is nothing to train on", where="supervised rows", remedy="give at least one row")
    conversations = [encode(tokenizer, row) for row in rows]
    for number, encoded in enumerate(conversations, start=1):
        if len(encoded.ids) > max_length:
            raise UserError(
                f"a conversation has {len(encoded.ids)} tokens, max_length is {max_length}",
                where=f"supervised rows, row {number}",
                remedy="raise max_length or shorten the row; rows are never truncated",
            )
    return conversations


def pad_right(rows: Sequence[Sequence[int]], value: int) -> "torch.Tensor":
    """int64 [len(rows), longest row], padded with `value` at the right."""
    import torch

    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)
