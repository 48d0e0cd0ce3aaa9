"""Requests to this machine never go through a proxy, whatever HTTP_PROXY, HTTPS_PROXY and ALL_PROXY say."""

import os
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost", "::1")


def bypass_proxies() -> None:
    """Add the names of loopback to NO_PROXY (and no_proxy) of this process and its children.

    httpx, websockets and urllib read these variables; httpx ignores ranges such as 127.0.0.0/8.
    """
    for variable in ("NO_PROXY", "no_proxy"):
        given = [host.strip() for host in os.environ.get(variable, "").split(",") if host.strip()]
        os.environ[variable] = ",".join([*given, *(host for host in HOSTS if host not in given)])


def is_loopback(url: str) -> bool:
    """Whether the host of `url` is this machine's loopback."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host in HOSTS
