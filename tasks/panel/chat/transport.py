"""One HTTP request with bounds on its time and its bytes. Whatever goes wrong on the way is a TransportError."""

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

import httpx

_REDIRECTS = 3


class TransportError(Exception):
    """There is no whole reply. `kind` is a short name for counts by kind; the text says what happened.

    lasting: asking again will not help.
    """

    def __init__(self, kind: str, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.lasting = lasting


@dataclass(frozen=True)
class HttpReply:
    """A whole reply. The body is decoded, and has at most the bytes that were allowed."""

    status: int
    headers: Mapping[str, str]  # names are not case-sensitive
    body: bytes


async def request(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    json: Mapping[str, object] | None = None,
    seconds: float,
    most_bytes: int,
) -> HttpReply:
    """Send a request and read its reply, within `seconds` from connecting to the last byte.

    307 and 308 are followed on the same host only, so that the key goes nowhere else; a redirect that is not followed
    is returned. Raises TransportError.
    """
    try:
        async with asyncio.timeout(seconds):
            for _ in range(_REDIRECTS + 1):
                reply = await _once(client, method, url, json, most_bytes)
                target = _redirect(url, reply)
                if target is None:
                    return reply
                url = target
    except TimeoutError:
        raise TransportError("timeout", f"no whole reply within {seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        lasting = _never_encrypts(error)
        kind = "TLS" if lasting else type(error).__name__
        raise TransportError(kind, f"{kind}: {error}", lasting=lasting) from None
    raise TransportError("redirects", f"more than {_REDIRECTS} redirects, the last to {url}")


async def _once(
    client: httpx.AsyncClient, method: str, url: str, json: Mapping[str, object] | None, most_bytes: int
) -> HttpReply:
    async with client.stream(method, url, json=json) as answer:
        raw = bytearray()
        async for chunk in answer.aiter_raw():
            raw += chunk
            if len(raw) > most_bytes:
                raise _too_large(most_bytes)
        body = _decoded(bytes(raw), answer.headers.get("content-encoding", ""), most_bytes)
        return HttpReply(answer.status_code, answer.headers, body)


def _decoded(raw: bytes, encoding: str, most_bytes: int) -> bytes:
    """`raw` without its Content-Encoding. A compressed body is never unpacked beyond `most_bytes`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity") or not raw:
        return raw
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise TransportError("wrong encoding", f"Content-Encoding is {encoding!r}, which was not asked for")
    for window in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # with a gzip or zlib header; bare deflate
        unpack = zlib.decompressobj(window)
        try:
            body = unpack.decompress(raw, most_bytes + 1)
        except zlib.error:
            continue
        if len(body) > most_bytes:
            raise _too_large(most_bytes)
        if unpack.eof:
            return body
    raise TransportError("wrong encoding", f"Content-Encoding is {encoding!r}, and the body is not, or is cut off")


def _never_encrypts(error: BaseException | None) -> bool:
    """Whether a certificate is not trusted, or the server does not speak TLS: whether `https` cannot work."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _redirect(url: str, reply: HttpReply) -> str | None:
    """Where a 307 or 308 leads, if that is the same host; None for any other reply."""
    if reply.status not in (307, 308) or "location" not in reply.headers:
        return None
    target = urljoin(url, reply.headers["location"])
    try:
        old, new = httpx.URL(url), httpx.URL(target)
    except httpx.InvalidURL:
        return None
    same = (old.scheme, old.host, old.port) == (new.scheme, new.host, new.port)
    upgrade = (old.scheme, new.scheme, old.host) == ("http", "https", new.host) and old.port is new.port is None
    return target if same or upgrade else None


def _too_large(most_bytes: int) -> TransportError:
    return TransportError("too large", f"the reply has more than {most_bytes:,} bytes")
