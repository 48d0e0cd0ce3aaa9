"""Whether a prompt fits the policy: its chat template takes the conversation, and its context has room for a reply."""

from typing import TYPE_CHECKING, Any, Literal

from storage.errors import UserError
from tasks.modeling.conversation import RefusedConversation, encode_chat, prepare_chats
from tasks.modeling.templates import AT_ONCE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Fit = Literal["fits", "too_long", "refused_by_template"]
DROPPED: tuple[Fit, ...] = ("too_long", "refused_by_template")


def fits_context(
    rows: list[dict[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    context: int,
    max_tokens: int,
    drop: bool,
    drop_refused: bool = False,
) -> list[Fit]:
    """For each row, whether the chat template takes its prompt, and whether prompt and `max_tokens` fit into `context`.

    Unless `drop`, the first that is too long is refused; unless `drop_refused`, the first that the template does not
    take: UserError with its file and line.
    """
    fits: list[Fit] = []
    for number, row in enumerate(rows):
        if number % AT_ONCE == 0:
            prepare_chats(tokenizer, (each["messages"] for each in rows[number : number + AT_ONCE]))
        try:
            length = len(encode_chat(tokenizer, row["messages"]))
        except RefusedConversation as refused:
            if not drop_refused:
                raise refused_by_template(row["source"], refused) from None
            fits.append("refused_by_template")
            continue
        fits.append("fits" if length + max_tokens <= context else "too_long")
        if fits[-1] == "too_long" and not drop:
            raise too_long(row["source"], length, context=context, max_tokens=max_tokens)
    return fits


def refused_by_template(source: str, refused: RefusedConversation) -> RefusedConversation:
    """`refused` for the prompt at `source`."""
    return refused.at(
        source,
        remedy="change the conversation (for example, put the system message into the first user turn),"
        " or leave such prompts out: prompts.refused_by_template=drop",
    )


def too_long(source: str, length: int, *, context: int, max_tokens: int) -> UserError:
    """The refusal of a prompt of `length` tokens that leaves no room for `max_tokens` of a response."""
    return UserError(
        f"the prompt has {length} tokens; with {max_tokens} for the response it does not fit the context of {context}",
        where=source,
        remedy="lower sampling.max_tokens, raise engine.max_model_len if the policy's positions reach further,"
        " or leave such prompts out: prompts.too_long=drop",
    )
