"""An optimizer step of this trainer."""

import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from benchmarks.gpu.bench import Bench, Row
from tasks.training.groups import PromptGroup

_SAMPLED = 100_000  # numbers of each parameter whose update is compared


def our_step(
    bench: Bench,
    name: str,
    groups: Sequence[PromptGroup],
    *,
    lora: bool = False,
    recompute: bool = False,
    plain: bool = False,
) -> Row:
    """One optimizer step over `groups` as a train stage makes it: DPO with cached reference, bfloat16, AdamW."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from tasks.training.batching import build_forward
    from tasks.training.examples import Example
    from tasks.training.label_columns import LabeledGroup
    from tasks.training.loop import Step, accumulate
    from tasks.training.objectives.dpo import Dpo
    from tasks.training.optimizer import build_optimizer, trainable
    from tasks.training.policy import add_adapters, checkpoint_activations
    from tasks.training.reference import Logprobs, compute
    from tasks.training.settings import LoraSettings, OptimizationSettings

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=bench.device == "cpu", mixed_precision="bf16")
    settings = OptimizationSettings(learning_rate=5e-7, batching="plain" if plain else "packed")
    objective = Dpo(beta=0.1)
    with bench.memory() as gib:
        model = bench.model(name)
        if recompute:
            checkpoint_activations(model)
        if lora:
            model = add_adapters(model, LoraSettings(), seed=0)  # type: ignore[assignment]  # is called like the model
        forward = build_forward(model, settings)
        started = time.perf_counter()
        values = compute(forward, groups, accelerator.autocast)["logprob"].to_numpy()
        reference = time.perf_counter() - started
        ends = np.cumsum([0, *(len(group.responses) for group in groups)])
        data = [
            Example(LabeledGroup(group), Logprobs(values[start:end]))
            for group, start, end in zip(groups, ends, ends[1:], strict=False)
        ]
        parameters = trainable(model)
        optimizer = build_optimizer(parameters, settings)
        before = _sample(parameters.values())
        ratios: list[float] = []

        def step() -> None:
            result = accumulate(forward, data, objective, accelerator=accelerator, step=Step())
            ratios.append(float(result.largest_ratio))
            accelerator.clip_grad_norm_(list(parameters.values()), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        seconds = bench.seconds(step)
    moved = _sample(parameters.values()) - before
    kept = (before + moved).bfloat16().float() - before
    row = pace(bench, name, groups, seconds, gib) | {"reference s": reference, "|h|/sqrt(t) at start": ratios[0]}
    return row if lora else row | {"update kept in bf16": float((kept @ moved) / (moved @ moved))}


def pace(bench: Bench, name: str, groups: Sequence[PromptGroup], seconds: float, gib: dict[str, float]) -> Row:
    """Figures that all arms have, from the seconds of one step over `groups`."""
    return {
        "pairs/s": sum(len(group.pairs) for group in groups) / seconds,
        "MFU": bench.mfu(name, groups, seconds),
        "peak GiB": gib["peak"],
        "s a step": seconds,
    }


def _sample(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    """The first numbers of every parameter, float32, on the CPU."""
    return torch.cat([parameter.detach().flatten()[:_SAMPLED].cpu() for parameter in parameters])
