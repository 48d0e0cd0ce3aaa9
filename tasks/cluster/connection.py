"""The connection to a Ray cluster, and what is refused before anything starts on it."""

import logging
import os
import signal
import socket
import threading
from importlib.util import find_spec
from typing import Any

from storage.errors import UserError
from tasks.cluster.local import KEEP_LOOPBACK, LocalCluster
from tasks.generation.engines import EngineSettings
from tasks.generation.settings import ClusterSettings

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


class Connection:
    """This process as a driver of a cluster. Opened once; `close` leaves the cluster, and ends a local one."""

    def __init__(self, cluster: ClusterSettings) -> None:
        """Raises UserError when there is no cluster at the address."""
        check_ray()
        if cluster.address == "local":
            os.environ |= KEEP_LOOPBACK  # before Ray is imported
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
        raise _no_cluster(address, (str(error).strip() or type(error).__name__).splitlines()[0]) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray installs its own


def _no_cluster(address: str, why: str) -> UserError:
    return UserError(f"there is no Ray cluster: {why}", where=f"cluster.address={address}", remedy=_REMEDY)


def worker_resources(engine: EngineSettings, cluster: ClusterSettings) -> dict[str, float]:
    """`num_cpus` and `num_gpus` of one worker. Raises UserError when the cluster never has enough for all of them."""
    import ray

    total: dict[str, float] = ray.cluster_resources()
    nodes: list[dict[str, Any]] = ray.nodes()
    nodes = [node for node in nodes if node["Alive"]]
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = engine.tensor_parallel if total.get("GPU") else 0
    for name, each in (("GPU", float(gpus)), ("CPU", cluster.cpus_per_worker)):
        places = sum(int(node["Resources"].get(name, 0) // each) for node in nodes) if each else engine.workers
        if places < engine.workers:
            raise UserError(
                f"{engine.workers} workers of {each:g} {name}s do not fit: the cluster has"
                f" {total.get(name, 0):g} {name}s on {len(nodes)} nodes, room for {places} workers",
                where=f"engine.workers={engine.workers}",
                remedy=f"lower engine.workers to {places} or less, or add machines to the cluster"
                if places
                else f"add machines with {name}s, or lower what a worker takes: cluster.{name.lower()}s_per_worker=...",
            )
    return {"num_cpus": cluster.cpus_per_worker, "num_gpus": float(gpus)}
