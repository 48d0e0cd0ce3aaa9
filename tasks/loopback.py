"""This machine's loopback: requests to it never go through a proxy, and processes exchange tensors over it."""

import os
import socket
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost", "::1")


def bypass_proxies() -> None:
    """Add the names of loopback to NO_PROXY (and no_proxy) of this process and its children.

    httpx, websockets and urllib read these variables; httpx ignores ranges such as 127.0.0.0/8.
    """
    for variable in ("NO_PROXY", "no_proxy"):
        given = [host.strip() for host in os.environ.get(variable, "").split(",") if host.strip()]
        os.environ[variable] = ",".join([*given, *(host for host in HOSTS if host not in given)])


def over_loopback() -> dict[str, str]:
    """Environment of processes of one machine: gloo, NCCL and vLLM open their ports on loopback only.

    Otherwise gloo listens at the address that the machine's name has, which may be on the network.
    """
    name = next(name for _, name in socket.if_nameindex() if name in ("lo", "lo0"))
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}", "VLLM_HOST_IP": "127.0.0.1"}


def is_loopback(url: str) -> bool:
    """Whether the host of `url` is this machine's loopback."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return False
    return host in HOSTS
