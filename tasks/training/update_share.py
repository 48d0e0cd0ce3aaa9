"""How much of what a round learnt is in the published policy.

The update of a round is u = trained - start, over all weights in float32. The share of it in a policy p is its
projection, <p - start, u> / <u, u>: 1 if p is the trained policy, 0 if rounding took every weight back to where it was.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict
from safetensors import safe_open

from tasks.modeling.policy_folder import tensor_files

if TYPE_CHECKING:  # commands read summaries without the seconds that torch takes
    from torch import Tensor

log = logging.getLogger("irepo")

LEAST = 0.9  # a smaller share is a warning
_CHUNK = 1 << 24  # weights compared at a time


class UpdateSummary(BaseModel):
    """The update of a round, in the summary of its train stage. Shares are None when no weight moved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    norm: float  # |trained - start|
    relative: float  # to |start|
    share: float | None  # in the published weights, from which the next round starts
    dtype: str  # of the policy's config.json, in which it is sampled unless engine.dtype says otherwise
    share_in_dtype: float | None  # in the published policy cast to that dtype, against the start cast to it

    @classmethod
    def of(cls, start: Path, trained: Mapping[str, "Tensor"], published: Path) -> Self:
        """Compare the policy in `start`, the trained weights (by name), and the policy in `published`.

        Weights that are stored under other names than in the model are taken from `published`.
        """
        from tasks.modeling.save import nominal_dtype

        dtype = nominal_dtype(published)
        update = before = kept = kept_in_dtype = 0.0
        for first, last, final in _chunks(tensor_files(start), trained, tensor_files(published)):
            moved = last - first
            update += _dot(moved, moved)
            before += _dot(first, first)
            kept += _dot(final - first, moved)
            kept_in_dtype += _dot(final.to(dtype).float() - first.to(dtype).float(), moved)
        return cls(
            norm=update**0.5,
            relative=(update / before) ** 0.5 if before else 0.0,
            share=kept / update if update else None,
            dtype=str(dtype).removeprefix("torch."),
            share_in_dtype=kept_in_dtype / update if update else None,
        )

    def warn(self) -> None:
        """Log a warning for each share below LEAST."""
        if self.share is not None and self.share < LEAST:
            log.warning(
                "only %.0f %% of this round's update is in the published policy: the next round starts from less",
                100 * self.share,
            )
        if self.share_in_dtype is not None and self.share_in_dtype < LEAST:
            log.warning(
                "in %s only %.0f %% of this round's update is left. The next round keeps all of it, but responses and "
                "evaluations sampled in %s show little of it: sample with engine.dtype=float32, or raise "
                "training.learning_rate",
                self.dtype,
                100 * self.share_in_dtype,
                self.dtype,
            )


def _chunks(
    start: Mapping[str, Path], trained: Mapping[str, "Tensor"], published: Mapping[str, Path]
) -> Iterator[tuple["Tensor", "Tensor", "Tensor"]]:
    """The same weights at the start, after training and as published; float32 [at most _CHUNK], on the CPU."""
    import torch

    for name in sorted(start.keys() & published.keys()):
        first, final = _read(start[name], name), _read(published[name], name)
        if not first.is_floating_point() or first.shape != final.shape:
            continue
        last = trained[name].detach() if name in trained else final
        flat = [tensor.reshape(-1).split(_CHUNK) for tensor in (first, last, final)]
        for parts in zip(*flat, strict=True):
            one, two, three = (part.to("cpu", torch.float32) for part in parts)
            yield one, two, three


def _read(path: Path, name: str) -> "Tensor":
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


def _dot(one: "Tensor", other: "Tensor") -> float:
    import torch

    return float((one * other).sum(dtype=torch.float64))
