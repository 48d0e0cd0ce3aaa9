"""A Ray cluster on this machine, bound to loopback, that ends with this process.

It is started by a child process. Ray has its processes die with the *thread* that started them (PR_SET_PDEATHSIG), and
Prefect runs tasks in short-lived threads; in the child it is the main thread.
"""

import os
import secrets
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from tasks.child_process import Child, Message, serve

MODULE = "tasks.cluster.local"
#: Without this, Ray 2.60 replaces 127.0.0.1 by this machine's outside address, and listens on all interfaces.
KEEP_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
#: Ray 2.60 gives its workers the lowest priority (niceness 15 more). Ours do what the run waits for.
OWN_PRIORITY = {"RAY_worker_niceness": "0"}
_OBJECT_STORE = 100 * 2**20  # bytes; shards do not pass through Ray


@cache
def credentials() -> dict[str, str]:
    """Variables with the token of this process's local clusters, for them and for drivers. Set before Ray is imported.

    Without them Ray 2.60 takes its token from ~/.ray/auth_token, and a driver that names an address sends none. Ray
    reads the token once, so that all clusters of a process have the same.
    """
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


class Start(Message):
    """Start a cluster of one node. Reply: Started."""

    operation: Literal["start"] = "start"
    folder: str  # of Ray's sockets and logs


class Started(Message):
    address: str  # host:port


class LocalCluster:
    """A cluster of this machine's CPUs and GPUs."""

    def __init__(self) -> None:
        """Raises ChildFailed when Ray does not start."""
        self._folder = Path(tempfile.mkdtemp(prefix="irepo-ray-"))  # short: sockets allow 107 characters
        environment = dict(os.environ) | KEEP_LOOPBACK | OWN_PRIORITY | credentials()
        environment["RAY_USAGE_STATS_ENABLED"] = "0"
        environment.pop("RAY_ADDRESS", None)
        self._child = Child(
            "the local Ray cluster", [sys.executable, "-m", MODULE], log=self._folder / "ray.log", env=environment
        )
        try:
            self._child.send(Start(folder=str(self._folder)))
            self.address = self._child.receive(Started).address
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every process of the cluster."""
        self._child.end()
        shutil.rmtree(self._folder, ignore_errors=True)


def _start(request: Start) -> Started:
    import ray

    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=_OBJECT_STORE,
        _node_ip_address="127.0.0.1",
        _temp_dir=request.folder,
    )
    return Started(address=ray.get_runtime_context().gcs_address)


if __name__ == "__main__":
    serve(TypeAdapter(Start), _start)
