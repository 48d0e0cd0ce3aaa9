"""The process that renders chat templates, for tasks.modeling.template_process. It imports nothing of the project.

A template is a program that came with somebody's model. Jinja's sandbox keeps it from files and attributes, not from
endless loops or `'x' * 10**10`, which no thread of the same process can interrupt. So it is rendered here, where the
kernel limits processor time and memory.

    python -I template_worker.py <seconds of processor time a request> <bytes of address space> <characters of output>

A request is a line of JSON, [number, template, dated, variables, chats]: the template's number; its text, or null once
this process knows it; whether it may ask for the time; variables by name; chats, each [messages,
add_generation_prompt]. The reply is a line of JSON: for
each chat its text, or {"kind": name of the exception, "message": what it says}; or one such object for all.
"""

import codecs
import datetime
import json
import math
import pprint  # noqa: F401 (see _forbid_files)
import resource
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jinja2
import jinja2.constants
import jinja2.debug
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

_LONGEST_MESSAGE = 1000  # characters of an error
_CHATS = 100  # that share the processor time of a request

#: [messages, add_generation_prompt]
Chat = tuple[list[dict[str, str]], bool]
Failure = dict[str, str]


class _Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, which marks the assistant's text for training: the text itself."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class Clock(Exception):
    """The template asks for the time. The message is the layout."""


def _refuse_clock(layout: str) -> NoReturn:
    raise Clock(layout)


def _now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up for chat templates (tests/security/test_templates.py compares the two)."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals.update(raise_exception=_raise_exception, strftime_now=_refuse_clock)
    return made


class Renderer:
    """Compiled templates by their numbers."""

    def __init__(self, longest: int) -> None:
        self._environment = environment()
        self._longest = longest  # characters of a text
        self._templates: dict[int, jinja2.Template] = {}

    def texts(
        self, number: int, template: str | None, dated: bool, variables: dict[str, object], chats: list[Chat]
    ) -> list[str | Failure]:
        given = {"tools": None, "documents": None} | variables
        if dated:
            given["strftime_now"] = _now
        if template is not None:
            self._templates[number] = self._environment.from_string(template)
        compiled = self._templates[number]
        return [self._text(compiled, given, messages, prompt) for messages, prompt in chats]

    def _text(
        self, compiled: jinja2.Template, given: dict[str, object], messages: object, prompt: bool
    ) -> str | Failure:
        try:
            text = compiled.render(given, messages=messages, add_generation_prompt=prompt)
            if len(text) > self._longest:
                raise MemoryError
        except Exception as error:
            return _failure(error)
        return text


def _failure(error: Exception) -> Failure:
    return {"kind": type(error).__name__, "message": str(error)[:_LONGEST_MESSAGE]}


def _forbid_files() -> None:
    """From now on this process opens no file and no socket, and writes to none.

    What Jinja imports only when a template needs it has been imported above and here.
    """
    codecs.lookup("unicode_escape")
    for nothing in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(nothing, (0, 0))


def main() -> None:
    seconds, space, longest = (int(word) for word in sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    renderer = Renderer(longest)
    _forbid_files()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        # The kernel ends the process when it has used this much: SIGXCPU.
        limit = math.ceil(used.ru_utime + used.ru_stime) + seconds * (1 + len(request[-1]) // _CHATS)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            reply = json.dumps(renderer.texts(*request))
        except Exception as error:
            reply = json.dumps(_failure(error))
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
