"""Attention over packed rows: the dtype it gets, the kernels that a micro-batch takes, and what they cost."""

from collections.abc import Callable

from torch import Tensor

from benchmarks.gpu.bench import Bench, Row
from tasks.training import attention
from tasks.training.batching import PackedForward
from tasks.training.packing import packed_tokens

TOKENS = 8192  # in a micro-batch, as training.microbatch_tokens


def measure(bench: Bench) -> list[Row]:
    """Milliseconds, MFU and kernels of a forward and backward over one micro-batch, by attention.

    "segments" is what a CPU does; "as trained" is what a stage does here, with flash attention where it has a kernel.
    """
    return [_row(bench, name, arm) for name in bench.names for arm in ("as trained", "segments")]


def _row(bench: Bench, name: str, arm: str) -> Row:
    model = bench.model(name)
    groups = bench.groups(name, 14, 4)
    while sum(map(packed_tokens, groups)) > TOKENS:
        groups.pop()
    dtypes: set[str] = set()
    flash: list[bool] = []
    has_kernel = attention._has_flash_kernel

    def watched(query: Tensor) -> bool:
        dtypes.add(str(query.dtype).removeprefix("torch."))
        flash.append(arm == "as trained" and has_kernel(query))
        return flash[-1]

    attention._has_flash_kernel = watched
    try:
        forward = PackedForward(model, TOKENS)

        def work() -> None:
            with bench.autocast():
                sums, _ = forward.logprobs(groups)
            sums.sum().backward()
            model.zero_grad(set_to_none=True)

        seconds = bench.seconds(work)
        kernels, slowest = _kernels(bench, work)
    finally:
        attention._has_flash_kernel = has_kernel
        bench.free()
    return {
        "model": name,
        "attention": arm,
        "dtype": ", ".join(sorted(dtypes)),
        "flash": "yes" if all(flash) else "no",
        "tokens": sum(map(packed_tokens, groups)),
        "ms": 1e3 * seconds,
        "MFU": bench.mfu(name, groups, seconds),
        "kernels": kernels,
        "most time in": slowest,
    }


def _kernels(bench: Bench, work: Callable[[], None]) -> tuple[int, str]:
    """How many kernels one call launches, and the three that take most time, with their shares."""
    if bench.device != "cuda":
        return 0, ""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        work()
        bench.wait()
    events = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    total = sum(event.self_device_time_total for event in events)
    slowest = sorted(events, key=lambda event: -event.self_device_time_total)[:3]
    shares = [f"{event.key[:28]} {event.self_device_time_total / total:.0%}" for event in slowest]
    return sum(event.count for event in events), "; ".join(shares)
