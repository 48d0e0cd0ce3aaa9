"""Run a module in several processes on this machine, one for each rank, with PyTorch's elastic launcher.

    python -m tasks.training.torchrun 2 tasks.training.launch spec.yaml

It does what torchrun does, except: if a process was killed by a signal, this process ends by the same signal. When one
process fails, the others are ended.
"""

import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tasks.processes import die_with_parent


def main(processes: int, module: str, arguments: Sequence[str]) -> int:
    die_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        run_id="training",
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        _, first_failure = error.get_first_failure()
        print(error, file=sys.stderr, flush=True)
        if first_failure.exitcode < 0:
            os.kill(os.getpid(), signal.Signals(-first_failure.exitcode))
        return first_failure.exitcode
    return 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
