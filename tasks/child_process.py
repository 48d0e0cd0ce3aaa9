"""A module of ours in a child process: requests in, replies out, everything else in its log.

    parent                                              child
    child = Child("the engine", command, log=path)      channel = open_channel()
    child.send(Sample(...))                             for request in channel.requests(TypeAdapter(Sample)):
    samples = child.receive(Samples)                        channel.send(Samples(...))
    child.end()                                         channel.leave()

Requests are JSON lines on the child's stdin, replies JSON lines on its stdout, marked by a record separator (as in
RFC 7464). Whatever else the child, its libraries or its launcher print goes to the log. An exception that the child
sends with `Channel.fail` is raised by the parent's next `receive`: a UserError as it is, others as ChildFailed. What
the child logs to the logger `irepo`, the parent logs when it receives.

The child is the leader of a process group that ends with `end`, and with its parent (see tasks.processes).
"""

import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from storage.errors import UserError
from tasks.processes import die_with_parent, end_group, kill_group, start_group

ROOT = Path(__file__).resolve().parents[1]
_SEPARATOR = b"\x1e"
#: After the separator; then a space and JSON.
_REPLY, _FAILURE, _REFUSAL, _LOGGED = b"reply", b"failure", b"refusal", b"logged"
_LOG_LINES = 30  # of the log, in an error
_CHUNK = 1 << 16  # bytes

log = logging.getLogger("irepo")

M = TypeVar("M", bound="Message")
R = TypeVar("R")


def python_path() -> str:
    """PYTHONPATH of a process that runs modules of the project from any folder: the project, then this process's."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


class Message(BaseModel):
    """A request or a reply. Floats may be infinite or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Done(Message):
    """The reply to a request that has no result."""


class _Failure(Message):
    """An exception of the child, other than a UserError."""

    type: str
    text: str


class _Refusal(Message):
    """A UserError of the child."""

    what: str
    where: str
    remedy: str


class _Logged(Message):
    """A line that the child logged."""

    level: int
    text: str


class ChildFailed(Exception):
    """The child raised an exception. The message ends with the last lines of the log."""

    def __init__(self, name: str, type_name: str, text: str, log: str) -> None:
        super().__init__(f"{name} failed: {type_name}: {text}\n{log}")
        self.type_name = type_name
        self.text = text


class ChildDied(Exception):
    """The child ended with `code` (-n: killed by signal n). The message ends with the last lines of its log."""

    def __init__(self, name: str, code: int, log: str) -> None:
        hint = " (often: out of memory)" if code == -9 else ""
        how = f"was killed by signal {-code}{hint}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"{name} {how}; {log}")
        self.code = code


class ChildTooSlow(Exception):
    """The child did not reply in time. The message ends with the last lines of its log."""


class Child:
    """The parent's end. One thread may `send` while another waits in `receive`; otherwise it is for one thread."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = ROOT,
        takes_requests: bool = True,
    ) -> None:
        """Start `command`, usually `[sys.executable, "-m", module]`, with a new `log`.

        `name` is what errors call it: "the vLLM engine". `env` replaces the environment if given.
        """
        self.name = name
        self.log = log
        log.unlink(missing_ok=True)  # it could be a link to another file
        with open(log, "xb") as stream:
            self._process = start_group(
                command,
                stdin=subprocess.PIPE if takes_requests else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=env,
                cwd=cwd,
            )
        self._last_request: str | None = None
        self._received = bytearray()
        self._searched = 0  # bytes of _received that hold no end of a line

    @property
    def pid(self) -> int:
        """Process id of the child, and of its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, request: Message) -> None:
        """Raises ChildDied."""
        assert self._process.stdin is not None
        self._last_request = type(request).__name__
        try:
            self._process.stdin.write(request.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def receive(self, kind: type[M], timeout: float | None = None) -> M:
        """The next reply. Raises what the child failed with (UserError, ChildFailed), ChildDied, and ChildTooSlow after
        `timeout` seconds."""
        reply = self._next(kind, timeout)
        if reply is None:
            raise self._death()
        return reply

    def receive_all(self, kind: type[M]) -> Iterator[M]:
        """Replies until the child, and every process of its that holds its stdout, has ended or closed it."""
        while (reply := self._next(kind, None)) is not None:
            yield reply

    def wait(self) -> None:
        """Wait until the child ends. Raises ChildDied unless its exit code is 0."""
        if self._process.wait() != 0:
            raise self._death()

    def end(self, reader: threading.Thread | None = None) -> None:
        """End the child and its process group, and `reader`, a thread that is in `receive`. May be called again."""
        end_group(self._process)
        if reader is not None:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # a request that was written only in part
                    stream.close()

    def log_tail(self) -> str:
        """The last lines of the log, after a line that names it."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        return "\n".join([f"the end of {self.log}:", *text.splitlines()[-_LOG_LINES:]])

    def _death(self) -> ChildDied:
        last = f"its last request was {self._last_request}; " if self._last_request else ""
        return ChildDied(self.name, self._process.wait(), last + self.log_tail())

    def _next(self, kind: type[M], timeout: float | None) -> M | None:
        """The next reply, or None when the child's stdout has ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (line := self._line(deadline)) is not None:
            foreign, separator, text = line.partition(_SEPARATOR)
            if foreign.strip():
                with open(self.log, "ab") as stream:
                    stream.write(foreign.rstrip(b"\n") + b"\n")
            if separator and text.startswith(_LOGGED):
                logged = _Logged.model_validate_json(text.removeprefix(_LOGGED))
                log.log(logged.level, "%s", logged.text)
            elif separator:
                return self._parse(kind, text)
        return None

    def _parse(self, kind: type[M], text: bytes) -> M:
        tag, _, content = text.partition(b" ")
        if tag == _REFUSAL:
            refusal = _Refusal.model_validate_json(content)
            raise UserError(refusal.what, where=refusal.where, remedy=refusal.remedy)
        if tag == _FAILURE:
            failure = _Failure.model_validate_json(content)
            raise ChildFailed(self.name, failure.type, failure.text, self.log_tail())
        return kind.model_validate_json(content)

    def _line(self, deadline: float | None) -> bytes | None:
        """The next whole line of the child's stdout, or None at its end; a line that was cut there is dropped."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while (end := self._received.find(b"\n", self._searched)) < 0:
            self._searched = len(self._received)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not wait([descriptor], left):
                raise ChildTooSlow(f"{self.name} did not answer in time; {self.log_tail()}")
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                return None
            self._received += chunk
        line = bytes(self._received[: end + 1])
        del self._received[: end + 1]
        self._searched = 0
        return line


class Channel:
    """The child's end; `open_channel` makes it."""

    def __init__(self, replies: IO[bytes]) -> None:
        self._replies = replies

    def requests(self, kind: TypeAdapter[R]) -> Iterator[R]:
        """Requests, until the parent closes stdin. `kind`: of a Message, or of a union that pydantic can tell apart."""
        for line in sys.stdin.buffer:
            yield kind.validate_json(line)

    def send(self, reply: Message) -> None:
        self._write(_REPLY, reply)

    def fail(self, error: BaseException) -> None:
        """Have the parent raise `error`. The traceback of any error but a UserError goes to the log."""
        if isinstance(error, UserError):
            what, where, remedy = (_valid(text) for text in (error.what, error.where, error.remedy))
            self._write(_REFUSAL, _Refusal(what=what, where=where, remedy=remedy))
            return
        traceback.print_exception(error)
        self._write(_FAILURE, _Failure(type=type(error).__name__, text=_valid(str(error) or repr(error))))

    def relay(self, record: logging.LogRecord) -> None:
        """Have the parent log `record`."""
        self._write(_LOGGED, _Logged(level=record.levelno, text=_valid(record.getMessage())))

    def leave(self) -> NoReturn:
        """End this process and its group at once.

        When the parent was killed, nobody else ends the processes that this one has started. And with vLLM and torch
        loaded, the interpreter's own shutdown takes seconds and can hang.
        """
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            kill_group()
        raise AssertionError("unreachable")

    def _write(self, tag: bytes, message: Message) -> None:
        # In one piece: the processes of a training share the pipe.
        self._replies.write(_SEPARATOR + tag + b" " + message.model_dump_json().encode() + b"\n")
        self._replies.flush()


def _valid(text: str) -> str:
    """`text` with surrogates, as file names may have, replaced."""
    return text.encode(errors="replace").decode()


def open_channel() -> Channel:
    """In a child, before anything else: end with the parent, and send what is printed from now on to the log.

    What is logged to `irepo` goes to the log of the child, and to the parent, which logs it too.
    """
    die_with_parent()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    channel = Channel(replies)
    log.addHandler(logging.StreamHandler())
    log.addHandler(_Relay(channel))
    log.setLevel(logging.INFO)
    return channel


class _Relay(logging.Handler):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # the parent is gone, or the channel closed
            self._channel.relay(record)


def serve(kind: TypeAdapter[R], answer: Callable[[R], Message]) -> NoReturn:
    """Answer every request with what `answer` returns or raises, until the parent closes stdin. Then leave."""
    channel = open_channel()
    for request in channel.requests(kind):
        try:
            reply = answer(request)
        except Exception as error:
            channel.fail(error)
        else:
            channel.send(reply)
    channel.leave()
