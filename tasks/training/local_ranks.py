"""Run a module in several processes on this machine, one for each rank, that nobody else can join.

    python -m tasks.training.local_ranks 2 <store> tasks.training.launch spec.yaml

torchrun would open a port on all interfaces, where ranks unpickle what anybody sends. Here ranks find each other by
`store`, a file that only this user can write, and exchange tensors over loopback.

When one process fails, the others are ended. If it was killed by a signal, this process ends by the same signal.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tasks.processes import die_with_parent

#: Environment variable of a rank: the file by which ranks find each other.
STORE = "IREPO_RANKS_STORE"
_POLL, _GRACE = 0.1, 5.0  # seconds


def main(processes: int, store: Path, module: str, arguments: Sequence[str]) -> int:
    """Start the ranks and wait for them. Returns the exit code of the first that failed, or 0."""
    die_with_parent()
    store.unlink(missing_ok=True)  # of ranks that were killed: their addresses are gone
    command = [sys.executable, "-m", module, *arguments]
    ranks = [subprocess.Popen(command, env=_environment(rank, processes, store)) for rank in range(processes)]
    code = _first_failure(ranks)
    _end(ranks)
    if code < 0:
        os.kill(os.getpid(), signal.Signals(-code))
    return code


def _environment(rank: int, processes: int, store: Path) -> dict[str, str]:
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    loopback = next(name for _, name in socket.if_nameindex() if name in ("lo", "lo0"))
    return (
        {"OMP_NUM_THREADS": threads}
        | os.environ
        | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            STORE: str(store),
            "GLOO_SOCKET_IFNAME": loopback,
            "NCCL_SOCKET_IFNAME": f"={loopback}",
        }
    )


def _first_failure(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until a rank fails or all have ended; the exit code (-n: killed by signal n), 0 if none failed."""
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [code for code in codes if code]
        if failed:
            return failed[0]
        if None not in codes:
            return 0
        time.sleep(_POLL)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    deadline = time.monotonic() + _GRACE
    for rank in ranks:
        try:
            rank.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
