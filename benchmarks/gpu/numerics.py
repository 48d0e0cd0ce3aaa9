"""Packed against plain rows: errors of log-probabilities and gradients, and the verdict of a stage's self-test."""

import torch

from benchmarks.gpu.bench import Bench, Row
from tasks.training.batching import PackedForward, PlainForward
from tasks.training.packed_check import Measured, compare
from tasks.training.packed_check import measure as forward_both_ways


def measure(bench: Bench) -> list[Row]:
    """Errors against plain rows in float32, in nats by token and as a share of the gradient's norm; smallest model."""
    name = bench.names[0]
    model = bench.model(name)
    with torch.no_grad():  # sharper than at random: half precision shows at tokens of low probability
        model.get_output_embeddings().weight.mul_(4)
    groups = bench.groups(name, 6, 3)[:3]
    plain, packed = PlainForward(model, 1), PackedForward(model, 8192)
    exact = forward_both_ways(plain, groups)
    arms = {
        "packed, float32": forward_both_ways(packed, groups),
        "plain, bfloat16": forward_both_ways(plain, groups, bench.autocast),
        "packed, bfloat16": forward_both_ways(packed, groups, bench.autocast),
    }
    rows: list[Row] = [{"model": name, "rows": arm, **_errors(exact, measured)} for arm, measured in arms.items()]
    compared = compare(exact, arms["packed, bfloat16"], arms["plain, bfloat16"])
    rows.append(
        {
            "model": name,
            "rows": "self-test",
            "token mean": compared.logprobs,
            "gradient": compared.gradient,
            "allowed": f"{compared.allowed[0]:.2g} nats, {compared.allowed[1]:.2g} of the gradient",
            "passes": "yes" if compared.holds else "NO",
        }
    )
    return rows


def _errors(exact: Measured, measured: Measured) -> Row:
    off = (measured.logprobs - exact.logprobs).abs()
    pairs = list(zip(measured.gradients, exact.gradients, strict=True))
    difference = sum(float((one - other).double().square().sum()) for one, other in pairs)
    norm = sum(float(other.double().square().sum()) for _, other in pairs)
    return {"token max": float(off.max()), "token mean": float(off.mean()), "gradient": (difference / norm) ** 0.5}
