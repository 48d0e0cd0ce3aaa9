"""Dealing a million prompts to many workers: what it costs the driver."""

import pytest

from benchmarks.cluster.simulation import simulate


@pytest.mark.parametrize(("workers", "wait"), [(32, 0.01), (1024, 0.15)])
def test_a_million_prompts_cost_the_driver_little(workers: int, wait: float) -> None:
    dealt = simulate(workers=workers, prompts=1_000_000)
    assert dealt.published == dealt.shards == 15_625
    assert dealt.ideal <= dealt.seconds <= dealt.ideal * (1 + wait)  # 1,024 workers wait for the last of 15 shards each
    assert dealt.cpu_seconds / dealt.shards < 2e-3
    assert dealt.memory_mib < 16


def test_the_drivers_memory_does_not_grow_with_the_prompts() -> None:
    few, many = (simulate(workers=32, prompts=prompts).memory_mib for prompts in (100_000, 1_000_000))
    assert many - few < 4
