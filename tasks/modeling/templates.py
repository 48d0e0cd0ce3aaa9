"""Conversations as a chat template writes them. The last ones rendered are kept.

Rendering happens in another process (tasks.modeling.template_process), and a request is two switches between processes,
tenths of a millisecond, or many milliseconds where processors are contended. `render_ahead` asks for many conversations
at once; encoding them one by one then finds their texts here.
"""

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from jinja2.exceptions import TemplateError
from pydantic import JsonValue

from tasks.modeling.template_process import Chat, Failure, rendered
from tasks.modeling.template_worker import environment

_KEPT = 1 << 24  # characters of texts
AT_ONCE = 100  # chats a request

_lock = threading.Lock()
_texts: OrderedDict[tuple[str, str, str], str] = OrderedDict()
_characters = 0


class TemplateFailed(Exception):
    """The template raised an exception: it refuses a conversation. `kind`: name of the exception's class."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.kind = failure.kind


def render(template: str, variables: Mapping[str, str], chats: Sequence[Chat]) -> list[str]:
    """The texts of `chats` by `template`, as transformers renders it with `variables`.

    Raises TemplateFailed for what the template itself raises, and UserError for a template that takes more time or
    memory, or writes more, than any conversation needs.
    """
    texts = _rendered(template, variables, chats)
    for text in texts:
        if isinstance(text, Failure):
            raise TemplateFailed(text)
    return [text for text in texts if isinstance(text, str)]


def render_ahead(template: str, variables: Mapping[str, str], chats: Sequence[Chat]) -> None:
    """Have `render` find the texts of `chats`, and raise what the template raises. Raises UserError as `render`."""
    for start in range(0, len(chats), AT_ONCE):
        _rendered(template, variables, chats[start : start + AT_ONCE])


class _Bounded:
    """In place of a compiled template of Jinja."""

    def __init__(self, template: str) -> None:
        self._template = template
        self.environment = environment()  # vLLM parses templates with it, and renders none

    def render(
        self, *, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, **variables: JsonValue
    ) -> str:
        (text,) = rendered(self._template, variables, [(messages, add_generation_prompt)], dated=True)
        if isinstance(text, Failure):
            raise TemplateError(text.message)
        return text


def bound_transformers() -> None:
    """Have transformers render as `render` does, whoever in this process asks it to: lm-eval, vLLM's server."""
    from transformers.utils import chat_template_utils

    chat_template_utils._compile_jinja_template = functools.lru_cache(_Bounded)


def _rendered(template: str, variables: Mapping[str, str], chats: Sequence[Chat]) -> list[str | Failure]:
    given = json.dumps(variables)
    keys = [(template, given, json.dumps(chat)) for chat in chats]
    with _lock:
        texts: list[str | Failure | None] = [_texts.get(key) for key in keys]
    missing = [number for number, text in enumerate(texts) if text is None]
    if missing:
        made = rendered(template, variables, [chats[number] for number in missing])
        for number, text in zip(missing, made, strict=True):
            texts[number] = text
            if isinstance(text, str):
                _keep(keys[number], text)
    return [text for text in texts if text is not None]


def _keep(key: tuple[str, str, str], text: str) -> None:
    global _characters
    with _lock:
        if key not in _texts:
            _texts[key] = text
            _characters += len(text) + len(key[2])
        while _characters > _KEPT:
            (_, _, chat), dropped = _texts.popitem(last=False)
            _characters -= len(dropped) + len(chat)
