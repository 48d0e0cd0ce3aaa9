"""Peak memory of one arm, in a process of its own: `python -m benchmarks.training.memory <arm> <pairs>`.

Prints one line of JSON: MiB after the imports, and at the peak of an optimizer step.
"""

import json
import subprocess
import sys

from benchmarks.training.arms import ARMS, Work
from benchmarks.training.world import LARGE_VOCABULARY, build_groups


def peak(arm: str, pairs: int) -> dict[str, float]:
    """The figures of `arm`, by a fresh process: freed memory of another arm would be used again. Linux."""
    command = [sys.executable, "-m", "benchmarks.training.memory", arm, str(pairs)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found | {"above": found["peak"] - found["import"]}


def _high_water() -> float:
    with open("/proc/self/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    import accelerate
    import torch
    import transformers.models.llama.modeling_llama
    import trl

    torch.set_num_threads(1)
    imported = _high_water()
    groups = build_groups(int(sys.argv[2]), 2, LARGE_VOCABULARY)
    ARMS[sys.argv[1]](Work(groups, len(groups), LARGE_VOCABULARY, bf16=True))()
    versions = f"{trl.__version__}, {accelerate.__version__}, {transformers.__version__}"
    print("\n" + json.dumps({"import": imported, "peak": _high_water(), "versions": versions}))


if __name__ == "__main__":
    main()
