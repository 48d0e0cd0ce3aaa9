"""Conversations as token ids: the one place where a chat template is rendered and its text is tokenized.

A conversation is rendered once, as a whole, and its text is tokenized once. A reply is what follows the prompt in these
ids, up to the token that ends the assistant's turn. Both follow from the template. The end token is the first special
or added token that the template writes after a reply, and it is often not the tokenizer's eos_token: Gemma ends turns
with <end_of_turn>, Phi-3 with <|end|>, ChatML with <|im_end|>. A template may also write something before a reply (an
empty thought), and a SentencePiece tokenizer reads the beginning of a text differently from its middle. Ids of a
separately tokenized reply would differ from those that the policy samples.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Self

from jinja2.exceptions import TemplateError

from storage.errors import UserError
from tasks.modeling.reasoning import THOUGHT_TOKENS
from tasks.modeling.template_process import Chat
from tasks.modeling.templates import TemplateFailed, render, render_ahead

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]  # {role, content} each

_TRANSFORMERS = "transformers.tokenization_utils_base"  # of the class that has apply_chat_template
_REPLY = "irepo-probe-reply"  # a reply that no template rewrites
_QUESTION = ({"role": "user", "content": "irepo-probe-question"},)


class RefusedConversation(UserError):
    """A conversation that the chat template does not render, or in which it does not tell the reply from the prompt."""

    def at(self, where: str, *, remedy: str | None = None) -> Self:
        """The same error for a conversation at `where` (file and line)."""
        return type(self)(self.what, where=where, remedy=remedy or self.remedy)


@dataclass(frozen=True)
class EncodedReply:
    """Token ids of a prompt, up to the assistant's header, and of a reply with its end token if it is complete."""

    prompt_ids: list[int]
    reply_ids: list[int]

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.reply_ids


@dataclass(frozen=True)
class RenderedReply:
    """The text of a prompt, up to the assistant's header, and of prompt, reply and end token."""

    prompt: str
    text: str

    def encoded(self, tokenizer: "PreTrainedTokenizerBase") -> EncodedReply:
        """Token ids. Raises RefusedConversation if a token spans the end of the prompt and the start of the reply."""
        prompt_ids, ids = _tokenize(tokenizer, self.prompt), _tokenize(tokenizer, self.text)
        if ids[: len(prompt_ids)] != prompt_ids:
            raise _refuse(
                f"the tokenizer joins the end of the prompt, {self.prompt[-20:]!r}, with the start of the reply, "
                f"{self.text[len(self.prompt) :][:20]!r}, so the policy never samples this reply"
            )
        return EncodedReply(prompt_ids, ids[len(prompt_ids) :])


@dataclass(frozen=True)
class TurnEnd:
    """What the chat template writes after an assistant's reply."""

    text: str  # all of it, as "<|im_end|>\n"
    token: str | None  # its first special or added token, which ends the turn; None if there is none
    token_id: int | None

    @property
    def through_token(self) -> str:
        """The text up to and including the end token."""
        return self.text[: self.text.index(self.token) + len(self.token)] if self.token is not None else self.text


def prepare_chats(tokenizer: "PreTrainedTokenizerBase", conversations: Iterable[Messages]) -> None:
    """Render prompts at once that `encode_chat` encodes next. Raises UserError for a template without end."""
    _ahead(tokenizer, [(messages, True) for messages in conversations])


def prepare_wholes(tokenizer: "PreTrainedTokenizerBase", replies: Iterable[tuple[Messages, str]]) -> None:
    """Render conversations (messages, reply) at once that `encode_whole` encodes next. Raises as `prepare_chats`."""
    _ahead(tokenizer, [([*messages, _assistant(reply)], False) for messages, reply in replies])


def encode_chat(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> list[int]:
    """Prompt token ids of a conversation: the chat template is applied once and ends with the assistant's header.

    Raises RefusedConversation when the template refuses the conversation.
    """
    (text,) = _render(tokenizer, (messages, True))
    return _tokenize(tokenizer, text)


def encode_reply(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, reply: str, *, ended: bool = True
) -> EncodedReply:
    """Token ids of the prompt `messages` and of `reply` as the assistant's turn, with its end token if it `ended`.

    Both together are the ids of the whole conversation, rendered once, up to the end of the reply. Raises
    RefusedConversation when the template refuses the conversation, when the prompt is not a prefix of the whole, in
    text or in tokens, and when a reply that ended has no end token.
    """
    return render_reply(tokenizer, messages, reply, ended=ended).encoded(tokenizer)


def encode_whole(tokenizer: "PreTrainedTokenizerBase", messages: Messages, reply: str) -> list[int]:
    """Token ids of a whole conversation as reward models read it, with all that the template writes after the reply.

    Raises RefusedConversation when the template refuses the conversation.
    """
    (text,) = _render(tokenizer, ([*messages, _assistant(reply)], False))
    return _tokenize(tokenizer, text)


def render_reply(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, reply: str, *, ended: bool = True
) -> RenderedReply:
    """The text of `encode_reply`; raises RefusedConversation in the same cases, except for tokens."""
    prompt, whole, probed = _render(
        tokenizer, (messages, True), ([*messages, _assistant(reply)], False), (_probe(messages), False)
    )
    end = _turn_end(tokenizer, probed)
    stop = len(whole) - len(end.text)
    if not whole.startswith(prompt) or not whole.endswith(end.text) or stop < len(prompt):
        raise _refuse(
            "the chat template writes this conversation so that the prompt is not its beginning: "
            f"the prompt ends with {prompt[-60:]!r}, the conversation with {whole[-60:]!r}"
        )
    if ended and end.token is None:
        raise _refuse(
            f"the chat template does not end the assistant's turn with a special token, but with {end.text!r}",
            remedy="end turns in the template with a token that the tokenizer lists as special, such as its eos_token",
        )
    return RenderedReply(prompt, whole[: stop + len(end.through_token)] if ended else whole[:stop])


def turn_end(tokenizer: "PreTrainedTokenizerBase", messages: Messages = _QUESTION) -> TurnEnd:
    """What the chat template writes after a reply to `messages`.

    Raises RefusedConversation when the template refuses the conversation or leaves the reply out.
    """
    (text,) = _render(tokenizer, (_probe(messages), False))
    return _turn_end(tokenizer, text)


def _probe(messages: Messages) -> Messages:
    return [*messages, _assistant(_REPLY)]


def _turn_end(tokenizer: "PreTrainedTokenizerBase", text: str) -> TurnEnd:
    """What `text`, a rendered probe, has after its reply."""
    _, reply, after = text.rpartition(_REPLY)
    if not reply:
        raise _refuse("the chat template leaves out the assistant's reply")
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    found = [(after.index(token), -len(token), token) for token in added if token in after]
    token = min(found)[2] if found else None
    return TurnEnd(after, token, added[token] if token is not None else None)


def check_turn_end(tokenizer: "PreTrainedTokenizerBase", *, stop: Sequence[str]) -> None:
    """Refuse a chat template that ends turns with words that are no token: responses would not end.

    stop: texts that end responses all the same. Raises UserError; RefusedConversation as `turn_end`.
    """
    end = turn_end(tokenizer)
    words = end.text.strip()
    if end.token is None and words and not any(text in end.text for text in stop):
        raise UserError(
            f"the chat template ends a turn with {words!r}, which is no token of the tokenizer: responses do not end",
            where="the policy's chat template",
            remedy=f"stop at this text: sampling.stop=['{words}']; or use a policy whose tokenizer has it as a token",
        )


def reply_text(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], end_tokens: Collection[int]) -> str:
    """The text of sampled token ids, without a final end token and without special tokens, except around a thought.

    An end token need not be among the tokenizer's special tokens.
    """
    ended = len(ids) > 0 and ids[-1] in end_tokens
    said = list(ids[:-1] if ended else ids)
    special = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    if THOUGHT_TOKENS.isdisjoint(special.values()):
        return str(tokenizer.decode(said, skip_special_tokens=True))
    dropped = {number for number, token in special.items() if token not in THOUGHT_TOKENS}
    return str(tokenizer.decode([number for number in said if number not in dropped]))


def _assistant(reply: str) -> dict[str, str]:
    return {"role": "assistant", "content": reply}


def _render(tokenizer: "PreTrainedTokenizerBase", *chats: Chat) -> list[str]:
    """The texts of `chats`, each rendered as a whole. Raises RefusedConversation where a turn is left out."""
    if _renders_by_its_class(tokenizer):
        texts = [_render_by_its_class(tokenizer, messages, prompt) for messages, prompt in chats]
    else:
        try:
            texts = render(tokenizer.get_chat_template(), tokenizer.special_tokens_map, chats)
        except TemplateFailed as failed:
            if failed.kind == "Clock":
                _refuse_clock(str(failed))
            raise _refuse(f"the chat template refuses this conversation: {failed}") from None
    for (messages, _), text in zip(chats, texts, strict=True):
        _refuse_lost(messages, text)
    return texts


def _refuse_lost(messages: Messages, text: str) -> None:
    """Raise RefusedConversation when `text` lacks what the system or a user says; replies may be shortened.

    Some templates know no system message, or only one at the start, and write the others nowhere.
    """
    for number, message in enumerate(messages, start=1):
        said = message["content"].strip()
        if message["role"] == "assistant" or said in text:
            continue
        if "".join(said.split()) not in "".join(text.split()):
            raise _refuse(f"the chat template leaves out message {number} of this conversation ({message['role']})")


def _ahead(tokenizer: "PreTrainedTokenizerBase", chats: list[Chat]) -> None:
    if not _renders_by_its_class(tokenizer):
        render_ahead(tokenizer.get_chat_template(), tokenizer.special_tokens_map, chats)


def _renders_by_its_class(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether its class has its own apply_chat_template; vLLM's wrappers, which call the model's, do not count."""
    own = (kind for kind in type(tokenizer).__mro__ if "apply_chat_template" in vars(kind))
    return next(kind.__module__ for kind in own if not kind.__module__.startswith("vllm.")) != _TRANSFORMERS


def _render_by_its_class(tokenizer: "PreTrainedTokenizerBase", messages: Messages, generation_prompt: bool) -> str:
    """By a tokenizer whose class renders conversations itself: code of transformers, or code that is trusted."""
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=generation_prompt,
            strftime_now=_refuse_clock,
        )
    except (TemplateError, TypeError) as error:
        raise _refuse(f"the chat template refuses this conversation: {error}") from None
    return str(text)


def _refuse_clock(layout: str) -> NoReturn:
    raise UserError(
        f"the chat template writes today's date ({layout}), so prompts would change with the day",
        where="the chat template",
        remedy="fix the date: policy.template_date=2026-01-31 in a run, template_date=2026-01-31 in a warm-up and in"
        " the settings of an annotator",
    )


def _tokenize(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    # verbose=False: no warning about long prompts; callers check the length themselves.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _refuse(
    what: str, *, remedy: str = "change the conversation, or the template (chat_template.jinja in the model's folder)"
) -> RefusedConversation:
    return RefusedConversation(what, where="the chat template", remedy=remedy)
