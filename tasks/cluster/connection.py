"""The connection to a Ray cluster, which the engines and annotators of this process share."""

import logging
import os
import signal
import socket
import threading
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Protocol

from storage.errors import UserError
from tasks.cluster.local import KEEP_LOOPBACK, LocalCluster, credentials
from tasks.cluster_settings import ClusterSettings

_SECONDS = 10.0  # until a cluster must accept a connection
_REMEDY = (
    "start a cluster (`ray start --head` there, `ray start --address=host:6379` on the other machines) and give its"
    " address, or have one started on this machine: cluster.address=local"
)


def check_ray() -> None:
    if find_spec("ray") is None:
        raise UserError(
            "Ray is not installed",
            where="cluster=ray",
            remedy="install it: .uv/bin/uv pip install --no-deps --require-hashes -r requirements/ray.txt",
        )


class Tenant(Protocol):
    """A part of this process that has workers on the cluster: the engines, or an annotator."""

    def give_room(self) -> None:
        """End workers: another tenant needs their places. Called while this one has nothing to do."""


@dataclass(frozen=True)
class _Shared:
    connection: "Connection"
    tenants: list[Tenant]


_shared: dict[str, _Shared] = {}  # by address
_lock = threading.RLock()


def join(cluster: ClusterSettings, tenant: Tenant) -> None:
    """Connect this process to the cluster, if it is not. Raises UserError when there is no cluster at the address."""
    with _lock:
        if cluster.address not in _shared:
            _shared[cluster.address] = _Shared(Connection(cluster), [])
        _shared[cluster.address].tenants.append(tenant)


def leave(cluster: ClusterSettings, tenant: Tenant) -> None:
    """The last tenant to leave closes the connection, and ends a local cluster."""
    with _lock:
        shared = _shared[cluster.address]
        shared.tenants.remove(tenant)
        if not shared.tenants:
            del _shared[cluster.address]
            shared.connection.close()


def make_room(cluster: ClusterSettings, tenant: Tenant) -> None:
    """Have the other tenants give up their places."""
    with _lock:
        for other in _shared[cluster.address].tenants:
            if other is not tenant:
                other.give_room()


class Connection:
    """This process as a driver of a cluster; `close` leaves the cluster, and ends a local one."""

    def __init__(self, cluster: ClusterSettings) -> None:
        """Raises UserError when there is no cluster at the address."""
        check_ray()
        if cluster.address == "local":
            os.environ |= KEEP_LOOPBACK | credentials()  # before Ray is imported
        self._local = LocalCluster() if cluster.address == "local" else None
        address = self._local.address if self._local else cluster.address
        try:
            _connect(address)
        except BaseException:
            self._end_local()
            raise

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._end_local()

    def _end_local(self) -> None:
        if self._local is not None:
            self._local.close()


def _connect(address: str) -> None:
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != "auto":
        try:
            socket.create_connection((host, int(port)), _SECONDS).close()
        except (OSError, ValueError) as error:
            raise _no_cluster(address, str(error)) from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="irepo")
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise (_no_cluster(address, why) if address == "auto" else _not_let_in(address, why)) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray installs its own


def _no_cluster(address: str, why: str) -> UserError:
    return UserError(f"there is no Ray cluster: {why}", where=f"cluster.address={address}", remedy=_REMEDY)


def _not_let_in(address: str, why: str) -> UserError:
    """Something listens at the address. Ray sends a token to an address that is named only if it is told to."""
    return UserError(
        f"Ray cannot connect to what listens there: {why}",
        where=f"cluster.address={address}",
        remedy="if the cluster asks for a token, set RAY_AUTH_MODE=token and keep the token in ~/.ray/auth_token (or"
        f" RAY_AUTH_TOKEN); otherwise give the address of a cluster of Ray {version('ray')}",
    )
