"""A Ray cluster of a head and nodes on this machine, whose nodes can be lost: bound to loopback, in a child process.

The head has no CPUs, so that every worker is on a node. A node has one CPU.
"""

import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from benchmarks.cluster.processes import MARK
from tasks.child_process import Child, Done, Message, serve
from tasks.cluster.local import KEEP_LOOPBACK, OWN_PRIORITY

MODULE = "benchmarks.cluster.nodes"
HOST = "127.0.0.1"


class Start(Message):
    """Start a head and `nodes` nodes. Reply: Started."""

    operation: Literal["start"] = "start"
    nodes: int


class Started(Message):
    address: str  # host:port


class Lose(Message):
    """Kill a node's daemons and every process on it, with SIGKILL. Reply: Done."""

    operation: Literal["lose"] = "lose"
    node: int  # number among those that live, the oldest first


class Add(Message):
    """Start one more node. Reply: Done."""

    operation: Literal["add"] = "add"


class Nodes:
    """The cluster, seen from the benchmark."""

    def __init__(self, nodes: int = 2) -> None:
        """Raises ChildFailed when Ray does not start."""
        self._folder = Path(tempfile.mkdtemp(prefix="irepo-ray-"))  # short: sockets allow 107 characters
        self.mark = self._folder.name
        environment = dict(os.environ) | KEEP_LOOPBACK | OWN_PRIORITY
        environment |= {MARK: self.mark, "RAY_TMPDIR": str(self._folder), "RAY_USAGE_STATS_ENABLED": "0"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", MODULE]
        self._child = Child("the Ray cluster", command, log=self._folder / "ray.log", env=environment)
        try:
            self._child.send(Start(nodes=nodes))
            self.address = self._child.receive(Started).address
        except BaseException:
            self.close()
            raise

    def lose(self, node: int) -> None:
        self._child.send(Lose(node=node))
        self._child.receive(Done)

    def add(self) -> None:
        self._child.send(Add())
        self._child.receive(Done)

    def close(self) -> None:
        self._child.end()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Daemons:
    """The cluster, in the child process."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._nodes: list[Any] = []

    def answer(self, request: Start | Lose | Add) -> Message:
        match request:
            case Start():
                self._cluster.add_node(node_ip_address=HOST, num_cpus=0, include_dashboard=False)
                for _ in range(request.nodes):
                    self._add()
                return Started(address=self._cluster.address)
            case Add():
                self._add()
            case Lose():
                self._lose(self._nodes.pop(request.node))
        return Done()

    def _add(self) -> None:
        self._nodes.append(self._cluster.add_node(node_ip_address=HOST, num_cpus=1))

    def _lose(self, node: Any) -> None:
        """All at once, as when a machine loses its power."""
        import psutil

        processes = [each.process.pid for daemons in node.all_processes.values() for each in daemons]
        with suppress(psutil.NoSuchProcess):
            processes += [below.pid for pid in processes[:] for below in psutil.Process(pid).children(recursive=True)]
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)


if __name__ == "__main__":
    _daemons: list[_Daemons] = []

    def _answer(request: Start | Lose | Add) -> Message:
        if not _daemons:
            _daemons.append(_Daemons())
        return _daemons[0].answer(request)

    serve(TypeAdapter(Start | Lose | Add), _answer)
