"""Instructions for a chat model: a template whose fields are filled with fenced data, and a system message.

Prompts and responses are untrusted text. Each is fenced by a mark that is a digest of all the texts, so that no text
can contain the end of its own fence. Fields are filled in one pass, so that no text can open another field. Control
tokens of chat templates (<|im_end|>, [INST]) are broken by an invisible character. Whether a judge ignores orders
inside the fence depends on the model: measure it with `python -m flows.judge_accuracy`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from storage.conversations import conversation_text
from storage.errors import UserError
from storage.files import digest
from tasks.panel.annotators.protocol import Response

_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<\uff5c[^\uff5c<>\n]{1,40}\uff5c>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<[be]os>"
)
_BREAK = "\u200b"  # zero-width space


class Instructions:
    """A template with `{name}` fields from `required` and `optional`, and a system message.

    `value` is a name in `builtin` or a file. Raises UserError when it cannot be read or lacks a required field.
    """

    def __init__(
        self,
        value: str,
        system: str | None,
        *,
        builtin: Mapping[str, str],
        required: Sequence[str],
        optional: Sequence[str] = (),
        where: str,
    ) -> None:
        self._system = system
        self._template = builtin[value] if value in builtin else _read(value, builtin, where)
        self._field = re.compile(r"\{(" + "|".join([*required, *optional]) + r")\}")
        self.fields = frozenset(self._field.findall(self._template))
        if missing := [field for field in required if field not in self.fields]:
            raise UserError(
                f"the template {value} lacks the fields {', '.join('{' + field + '}' for field in missing)}",
                where=where,
                remedy=f"write {', '.join('{' + field + '}' for field in required)} where the texts belong",
            )
        self.digest = digest([self._template, system])

    def messages(
        self, data: Mapping[str, str | Sequence[str]], plain: Mapping[str, str] | None = None
    ) -> list[dict[str, str]]:
        """The chat to send. `data` is fenced (a sequence as numbered entries); `plain` is our own text and is not."""
        mark = digest([self.digest, {name: list(_texts(value)) for name, value in data.items()}])[:12]
        filled = {name: _fenced(value, mark) for name, value in data.items()} | dict(plain or {})
        content = self._field.sub(lambda field: filled[field[1]], self._template)
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return [*system, {"role": "user", "content": content}]


def prompt_text(response: Response) -> str:
    """The prompt as text: its message, or all its messages with their roles if there are several."""
    return conversation_text(response.messages)


def without_control(text: str) -> str:
    """`text` with the control tokens of common chat templates broken up, so that a tokenizer reads them as text."""
    return _CONTROL.sub(lambda token: token[0][0] + _BREAK + token[0][1:], text)


def _texts(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _fenced(value: str | Sequence[str], mark: str) -> str:
    if isinstance(value, str):
        return f"<<<{mark}\n{without_control(value)}\n{mark}>>>"
    return "\n\n".join(f"Response {i}:\n{_fenced(text, mark)}" for i, text in enumerate(value, start=1))


def _read(value: str, builtin: Mapping[str, str], where: str) -> str:
    try:
        return Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the template file cannot be read: {error}",
            where=where,
            remedy=f"name a file, or one of {', '.join(builtin)}",
        ) from None
