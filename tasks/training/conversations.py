"""Token ids of training conversations, with a mask of the assistant's tokens.

Rows are {"messages": [...]} or {"prompt": ..., "completion": ...}. Prompts and replies are encoded as for generation
(tasks.modeling.conversation). So the policy later continues the token ids that it was trained on.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.errors import UserError
from tasks.modeling.conversation import RefusedConversation, render_reply

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizedConversation:
    """Token ids of a conversation."""

    ids: list[int]
    trained: list[bool]  # per id: whether it is an assistant's token, which the loss is computed on
    #: Numbers of the assistant's turns that are not trained here, because the template writes them otherwise once turns
    #: follow (thinking templates leave earlier thoughts out).
    rewritten: list[int]


def conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages of a row: `messages`, or `prompt` + `completion`, each a string or a list of messages.

    A string prompt is one user message, a string completion one assistant message. Raises UserError (without a row
    number) for other columns, and for a role or content that is not text.
    """
    if "messages" in row:
        turns = list(row["messages"])
    elif "prompt" in row and "completion" in row:
        turns = []
        for role, part in (("user", row["prompt"]), ("assistant", row["completion"])):
            turns += [{"role": role, "content": part}] if isinstance(part, str) else list(part)
    else:
        raise UserError(
            f"a training row needs `messages`, or `prompt` and `completion`, but it has {sorted(row)}",
            where="supervised rows",
            remedy='write rows as {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}',
        )
    for turn in turns:
        if not all(isinstance(turn.get(name), str) for name in ("role", "content")):
            raise UserError(
                f"a message's role or content is not text: {str(turn)[:200]}",
                where="supervised rows",
                remedy="write every message as {role, content}, both strings; leave out rows with tool calls or images",
            )
    return turns


def encode(
    tokenizer: "PreTrainedTokenizerBase", row: Mapping[str, Any], turns: Collection[int] | None = None
) -> TokenizedConversation:
    """Token ids of a row up to its last trained turn. The mask covers each assistant turn's text and its end token.

    turns: numbers of the messages to train; None: all of the assistant's. Raises UserError when there is no assistant
    turn or the chat template refuses the conversation, and when it does not tell the last reply from its prompt.
    """
    messages = conversation(row)
    wanted = [
        number
        for number, message in enumerate(messages)
        if message["role"] == "assistant" and (turns is None or number in turns)
    ]
    if not wanted:
        raise UserError(
            "a conversation has no assistant turn to train on",
            where=f"supervised rows: {str(messages)[:200]}",
            remedy="give each row at least one message with the role 'assistant'",
        )
    last = wanted[-1]
    ids = render_reply(tokenizer, messages[:last], messages[last]["content"]).encoded(tokenizer).ids
    trained = [False] * len(ids)
    rewritten = []
    for number in wanted:
        encoded = render_reply(tokenizer, messages[:number], messages[number]["content"]).encoded(tokenizer)
        start, stop = len(encoded.prompt_ids), len(encoded.ids)
        if ids[:stop] == encoded.ids:
            trained[start:stop] = [True] * (stop - start)
        else:
            rewritten.append(number)
    return TokenizedConversation(ids, trained, rewritten)


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Mapping[str, Any]],
    max_length: int,
    sources: Sequence[str] | None = None,
) -> list[TokenizedConversation]:
    """`encode` every row. Turns that the template rewrites once turns follow make sequences of their own.

    sources: file and line of each row, for error messages. Raises UserError for no rows, for a row that `encode`
    refuses, and for one longer than `max_length` tokens.
    """
    if not rows:
        raise UserError("there is nothing to train on", where="supervised rows", remedy="give at least one row")
    sequences: list[TokenizedConversation] = []
    for number, row in enumerate(rows):
        where = sources[number] if sources else f"supervised rows, row {number + 1}"
        try:
            encoded = encode(tokenizer, row)
            own = [encoded]
            while encoded.rewritten:
                encoded = encode(tokenizer, row, encoded.rewritten)
                own.append(encoded)
        except RefusedConversation as refused:
            raise refused.at(where) from None
        except UserError as error:
            raise UserError(error.what, where=where, remedy=error.remedy) from None
        longest = max(len(sequence.ids) for sequence in own)
        if longest > max_length:
            raise UserError(
                f"a conversation has {longest} tokens, max_length is {max_length}",
                where=where,
                remedy="raise max_length or shorten the row; rows are never truncated",
            )
        sequences += own
    return sequences


def pad_right(rows: Sequence[Sequence[int]], value: int) -> "torch.Tensor":
    """int64 [len(rows), longest row], padded with `value` at the right."""
    import torch

    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)
