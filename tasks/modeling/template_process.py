"""Chat templates are rendered in a process of their own, which the kernel bounds in time and memory.

A template comes with a model and is a program. A hostile one loops without end or writes without end, on the first
conversation or on a later one; a single operation (`'x' * 10**10`) cannot be interrupted from inside its process. See
tasks.modeling.template_worker. One such process is kept by every process that renders; it ends with it.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from storage.errors import UserError
from tasks.processes import end_group, start_group

SECONDS = 2  # of processor time a request, and as much again for every 100 chats
SPACE = 1 << 30  # bytes of address space
LONGEST = 1 << 24  # characters of a rendered conversation
LONGEST_TEMPLATE = 1 << 20  # characters of a template
_WAIT = 300  # seconds for a reply: SECONDS on a machine that does much else
_TEMPLATES = 64  # that one process keeps
_READ = 1 << 16  # bytes
_MOST = 16 * LONGEST  # bytes of a reply: a character is at most 12 in JSON

#: Messages {role, content}, and whether the assistant's header is to follow.
Chat = tuple[Sequence[Mapping[str, str]], bool]


@dataclass(frozen=True)
class Failure:
    """An exception that the template raised: it refuses the conversation."""

    kind: str  # name of the exception's class
    message: str


def rendered(
    template: str, variables: Mapping[str, JsonValue], chats: Sequence[Chat], *, dated: bool = False
) -> list[str | Failure]:
    """The texts of `chats` by `template`, in one request, as transformers renders it with `variables`.

    dated: whether the template may write today's date; otherwise it fails as `Clock`. Raises UserError for a template
    that takes more time or memory, or writes more, than any conversation needs.
    """
    if len(template) > LONGEST_TEMPLATE:
        raise _excessive(f"is {len(template):,} characters long; at most {LONGEST_TEMPLATE:,} are read")
    with _lock:
        try:
            return _kept().rendered(template, variables, chats, dated)
        except _Ended as ended:
            _discard()
            if ended.code not in (-signal.SIGKILL, -signal.SIGTERM):
                raise _excessive(_reason(ended.code)) from None
        # Somebody else ended the process: the kernel, short of memory, or who stops a run.
        try:
            return _kept().rendered(template, variables, chats, dated)
        except _Ended as ended:
            _discard()
            raise _excessive(_reason(ended.code)) from None


class _Ended(Exception):
    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code  # None: it did not answer in time


class _Process:
    def __init__(self) -> None:
        worker = Path(__file__).with_name("template_worker.py")
        # -I: no module of the working folder, and no PYTHON* variable.
        command = [sys.executable, "-I", str(worker), str(SECONDS), str(SPACE), str(LONGEST)]
        self._process = start_group(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={"LANG": "C.UTF-8"}
        )
        self._numbers: dict[str, int] = {}

    @property
    def full(self) -> bool:
        return len(self._numbers) >= _TEMPLATES

    def rendered(
        self, template: str, variables: Mapping[str, JsonValue], chats: Sequence[Chat], dated: bool
    ) -> list[str | Failure]:
        known = self._numbers.get(template)
        number = len(self._numbers) if known is None else known
        conversations = [([dict(message) for message in messages], prompt) for messages, prompt in chats]
        request = [number, template if known is None else None, dated, dict(variables), conversations]
        reply = json.loads(self._ask(json.dumps(request).encode() + b"\n"))
        if isinstance(reply, dict):  # the template cannot be compiled
            return [_failure(reply)] * len(chats)
        self._numbers[template] = number
        return [_failure(text) if isinstance(text, dict) else str(text) for text in reply]

    def end(self) -> None:
        end_group(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _ask(self, request: bytes) -> bytes:
        """The reply's line. Raises _Ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _Ended(self._process.wait()) from None
        descriptor = self._process.stdout.fileno()
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        received = bytearray()
        while not received.endswith(b"\n"):
            if not waiting.poll(_WAIT * 1000) or len(received) > _MOST:
                raise _Ended(None)
            part = os.read(descriptor, _READ)
            if not part:
                raise _Ended(self._process.wait())
            received += part
        return bytes(received)


def _failure(error: Mapping[str, str]) -> Failure:
    """Raises UserError where the template would not end."""
    if error["kind"] == "MemoryError":
        raise _excessive(f"writes more than {LONGEST:,} characters, or needs more than {SPACE >> 20} MiB")
    return Failure(error["kind"], error["message"])


_lock = threading.Lock()
_process: _Process | None = None


def _kept() -> _Process:
    """The process of this process; a new one when it knows too many templates."""
    global _process
    if _process is not None and _process.full:
        _discard()
    if _process is None:
        _process = _Process()
    return _process


def _discard() -> None:
    global _process
    if _process is not None:
        _process.end()
    _process = None


def _forget() -> None:
    """After a fork: the process and the lock are the parent's."""
    global _lock, _process
    _lock, _process = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)


def _reason(code: int | None) -> str:
    if code == -signal.SIGXCPU:
        return f"takes more than {SECONDS} s of processor time for a conversation"
    if code is None:
        return f"does not answer within {_WAIT} s"
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"ends the process that renders it ({how})"


def _excessive(what: str) -> UserError:
    return UserError(
        f"the chat template {what}",
        where="the chat template",
        remedy="use the template of the model's publisher, or write one: chat_template.jinja in the model's folder",
    )
