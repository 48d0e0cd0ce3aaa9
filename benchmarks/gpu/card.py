"""What the machine is, and the rate of its matrix products."""

import torch

from benchmarks.gpu.bench import Bench, Row


def measure(bench: Bench) -> list[Row]:
    """The card, its memory, bfloat16 TFLOP/s of a large matrix product, and the rate that MFU refers to."""
    row: Row = {"card": "CPU"}
    if bench.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        major, minor = torch.cuda.get_device_capability()
        row = {
            "card": torch.cuda.get_device_name(),
            "capability": f"{major}.{minor}",
            "free GiB": free / 2**30,
            "total GiB": total / 2**30,
        }
    return [row | {"bf16 matmul TFLOP/s": bench.matmul_rate / 1e12, "TFLOP/s that MFU refers to": bench.peak / 1e12}]
