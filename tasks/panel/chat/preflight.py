"""Before a run starts: does each endpoint accept the key and serve the model? One question finds out.

A wrong address, key or model is refused. A server that does not answer now may answer when it is needed: that is a
warning, and the stage that needs it stops if it still does not.
"""

import asyncio
import logging
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.errors import UserError
from storage.files import digest
from tasks.panel.annotators.protocol import Fault, Refused
from tasks.panel.chat.settings import ChatSettings

log = logging.getLogger("irepo")

_SECONDS = 20.0  # for each of the two requests
_BYTES = 2**23  # of a list of models
_TOKENS = 16  # of the reply, which is not read
_NAMES = 20  # of models, in an error
_QUESTION = [{"role": "user", "content": "Reply with the letter A."}]

#: Endpoints that this process has asked, so that a run asks once: digests of their settings.
_asked: set[str] = set()


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)

    id: str


class _Models(BaseModel):
    """The reply of GET /v1/models."""

    model_config = ConfigDict(strict=True)

    data: list[_Model]


def check_servers(servers: Mapping[str, ChatSettings]) -> None:
    """Ask all endpoints at the same time. servers: by their place in the configuration, such as panel.annotators.one.

    Raises UserError when a server refuses the key or the address, or does not serve the model.
    """
    new = {place: settings for place, settings in servers.items() if _identity(settings) not in _asked}
    if new:
        asyncio.run(_check_all(new))
        _asked.update(_identity(settings) for settings in new.values())


async def _check_all(servers: Mapping[str, ChatSettings]) -> None:
    checks = await asyncio.gather(
        *(_check(place, settings) for place, settings in servers.items()), return_exceptions=True
    )
    for outcome in checks:
        if isinstance(outcome, BaseException):
            raise outcome


async def _check(place: str, settings: ChatSettings) -> None:
    names = await _models(place, settings)
    if names is not None and settings.model not in names:
        shown = ", ".join(names[:_NAMES]) + (f", and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
        raise UserError(
            f"the server does not serve the model {settings.model!r}; it serves: {shown or 'none'}",
            where=f"{place}.model, at {settings.base_url}",
            remedy="name one of these models, or another base_url",
        )
    await _ask(place, settings)


async def _models(place: str, settings: ChatSettings) -> list[str] | None:
    """The names of the models that the server lists; None when it has no such list."""
    from tasks.panel.chat.completion import printable
    from tasks.panel.chat.endpoint import open_client, read_key
    from tasks.panel.chat.transport import TransportError, request

    async with open_client(settings, read_key(place, settings.api_key_env)) as client:
        url = f"{settings.base_url.rstrip('/')}/models"
        try:
            reply = await request(client, "GET", url, seconds=min(_SECONDS, settings.timeout), most_bytes=_BYTES)
        except TransportError:
            return None  # the question tells whether the server is there
    if reply.status != 200:
        return None
    try:
        return [printable(model.id) for model in _Models.model_validate_json(reply.body).data]
    except ValidationError:
        return None


async def _ask(place: str, settings: ChatSettings) -> None:
    from tasks.panel.chat.endpoint import Endpoint

    quick = {"retries": 0, "timeout": min(_SECONDS, settings.timeout)}
    endpoint = Endpoint(place, type(settings).model_validate(settings.model_dump() | quick))
    most = None if settings.max_tokens is None else min(_TOKENS, settings.max_tokens)
    try:
        async with endpoint.connected():
            await endpoint.chat(_QUESTION, max_tokens=most, temperature=settings.temperature)
    except Refused as refused:
        log.warning("%s refuses a first question: %s", place, refused)
    except Fault as fault:
        if fault.lasting:
            raise _refusal(place, settings, str(fault)) from None
        log.warning("%s does not answer now: %s; the stage that needs it asks again", place, fault)


def _refusal(place: str, settings: ChatSettings, what: str) -> UserError:
    if what.startswith(("HTTP 401", "HTTP 403", "HTTP 407")):
        variable = settings.api_key_env
        remedy = f"set the key in {variable}" if variable else "name the variable that holds the key in api_key_env"
    elif what.startswith("TLS"):
        remedy = "check that base_url begins with https:// only where the server speaks TLS; for a certificate of your "
        remedy += "own, name the file that vouches for it in SSL_CERT_FILE"
    else:
        path = urlsplit(settings.base_url).path
        remedy = "check base_url (most servers want it to end with /v1) and model"
        if path.rstrip("/").endswith("/v1"):
            remedy = "check model and base_url"
    return UserError(
        f"the server does not accept a first question to the model {settings.model!r}: {what}",
        where=f"{place}, at {settings.base_url}",
        remedy=remedy,
    )


def _identity(settings: ChatSettings) -> str:
    return digest([settings.base_url, settings.api_key_env, settings.model, settings.answers()])
