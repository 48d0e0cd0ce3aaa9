"""One request has bounds: seconds from connecting to the last byte, and bytes, also when they are compressed."""

import asyncio
import gzip
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from tasks.panel.chat.rate import retry_after
from tasks.panel.chat.transport import HttpReply, TransportError, request

Handler = Callable[[httpx.Request], httpx.Response]
URL = "http://judge.example/v1/chat/completions"


def ask(handler: Handler, *, seconds: float = 5.0, most_bytes: int = 1000, url: str = URL) -> HttpReply:
    async def work() -> HttpReply:
        async with httpx.AsyncClient(
            transport=httpx.MockTransport(handler), headers={"Authorization": "Bearer key"}, trust_env=False
        ) as client:
            return await request(client, "POST", url, json={}, seconds=seconds, most_bytes=most_bytes)

    return asyncio.run(work())


class Drip(httpx.AsyncByteStream):
    """A chunk every `pause` seconds, without end."""

    def __init__(self, chunk: bytes, pause: float) -> None:
        self._chunk, self._pause = chunk, pause

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield self._chunk
            await asyncio.sleep(self._pause)


def test_a_reply_that_drips_ends_at_the_deadline() -> None:
    started = time.monotonic()
    with pytest.raises(TransportError, match=r"no whole reply within 0\.2 s") as late:
        ask(lambda _: httpx.Response(200, stream=Drip(b" ", 0.02)), seconds=0.2)
    assert late.value.kind == "timeout"
    assert 0.15 < time.monotonic() - started < 5


def test_a_reply_without_end_is_cut() -> None:
    with pytest.raises(TransportError, match="more than 1,000 bytes"):
        ask(lambda _: httpx.Response(200, stream=Drip(b"x" * 100, 0.0)))


def test_a_compressed_reply_is_not_unpacked_beyond_the_bound() -> None:
    bomb = gzip.compress(bytes(2**27))
    tracemalloc.start()
    try:
        with pytest.raises(TransportError, match="more than 1,000,000 bytes"):
            ask(
                lambda _: httpx.Response(200, stream=httpx.ByteStream(bomb), headers={"content-encoding": "gzip"}),
                most_bytes=10**6,
            )
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data, wbits=-15)),
        ("identity", bytes),
    ],
)
def test_compressed_replies_are_unpacked(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    stream = httpx.ByteStream(pack(b"whole reply"))
    assert (
        ask(lambda _: httpx.Response(200, stream=stream, headers={"content-encoding": encoding})).body == b"whole reply"
    )


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [("gzip", b"plain"), ("gzip", gzip.compress(b"cut off", mtime=0)[:-4]), ("br", b"plain"), ("gzip, gzip", b"plain")],
)
def test_an_encoding_that_is_not_is_a_fault_of_transport(encoding: str, sent: bytes) -> None:
    with pytest.raises(TransportError, match="Content-Encoding") as wrong:
        ask(lambda _: httpx.Response(200, stream=httpx.ByteStream(sent), headers={"content-encoding": encoding}))
    assert wrong.value.kind == "wrong encoding"


@pytest.mark.parametrize(
    ("location", "followed"),
    [
        ("/v2/chat/completions", True),
        ("http://judge.example/v2", True),
        ("https://judge.example/v2", True),
        ("http://judge.example:81/v2", False),
        ("http://elsewhere.example/v2", False),
        ("//elsewhere.example/v2", False),
        ("http://judge.example.elsewhere.example/", False),
        ("ftp://judge.example/", False),
    ],
)
@pytest.mark.parametrize("status", [307, 308])
def test_redirects_are_followed_on_the_same_host_only(status: int, location: str, followed: bool) -> None:
    asked: list[httpx.Request] = []

    def handler(sent: httpx.Request) -> httpx.Response:
        asked.append(sent)
        stream = httpx.ByteStream(b"there")
        return httpx.Response(status if len(asked) == 1 else 200, headers={"location": location}, stream=stream)

    reply = ask(handler)
    assert (reply.status == 200, len(asked)) == (followed, 1 + followed)
    assert {sent.url.host for sent in asked} == {"judge.example"}  # the key goes nowhere else
    assert [sent.method for sent in asked] == ["POST"] * len(asked)


def test_a_redirect_in_a_circle_ends() -> None:
    with pytest.raises(TransportError, match="redirects"):
        ask(lambda sent: httpx.Response(307, headers={"location": str(sent.url)}, stream=httpx.ByteStream(b"")))


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError, httpx.DecodingError])
def test_what_the_library_raises_is_a_fault_of_transport(error: type[httpx.HTTPError]) -> None:
    def handler(sent: httpx.Request) -> httpx.Response:
        raise error("broken")

    with pytest.raises(TransportError, match="broken") as wrong:
        ask(handler)
    assert wrong.value.kind == error.__name__


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        ("1.5", 1.5),
        (" 0.25 ", 0.25),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("", 9.0),
        ("soon", 9.0),
        ("-5", 9.0),
        ("nan", 9.0),
        ("inf", 9.0),
        ("1e400", 9.0),
        ("9" * 400, 9.0),
        ("Wed, 99 Oct 99999 07:28:00 GMT", 9.0),
    ],
)
def test_retry_after(header: str, seconds: float) -> None:
    assert retry_after({"retry-after": header}, 9.0) == seconds


def test_retry_after_a_date() -> None:
    header = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 28 < retry_after({"retry-after": header}, 9.0) <= 30
