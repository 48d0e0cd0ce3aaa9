"""Before any figure: is what is timed the same update?"""

import math

import torch

from benchmarks.training.arms import ARMS, CACHED, OURS, Work
from benchmarks.training.world import build_groups, build_model
from tasks.modeling.logprobs import TokenSequence
from tasks.modeling.logprobs import token_logprobs as plain
from tasks.training.batching import PackedForward

LOGPROB, GRADIENT, NORM = 1e-4, 1e-5, 1e-4


def exactness(vocabulary: int) -> dict[str, float]:
    """Of packed rows against one forward a response (float32): largest difference of a token's log-probability, and of
    the gradient as a share of its norm; and of the norm of an optimizer step's gradient, against TRL's on eight pairs.
    """
    groups = build_groups(3, 3, vocabulary)
    model = build_model(vocabulary)
    single = torch.cat(
        [
            plain(model, [TokenSequence(group.prompt_ids, response)])[0]
            for group in groups
            for response in group.responses
        ]
    )
    packed = PackedForward(model, 1 << 20).logprobs(groups)[1]
    weights = torch.cos(torch.arange(len(single), dtype=torch.float64))
    gradients = []
    for tokens in (single.double(), packed):
        model.zero_grad()
        (weights @ tokens).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    work = Work(build_groups(8, 2, vocabulary), 8, vocabulary)
    norms = [ARMS[name](work)().gradient for name in (OURS, CACHED)]
    return {
        "logprob": float((single - packed).detach().abs().max()),
        "gradient": float((gradients[0] - gradients[1]).norm() / gradients[0].norm()),
        "norm against TRL": abs(norms[0] / norms[1] - 1),
    }


def passed(found: dict[str, float]) -> bool:
    limits = {"logprob": LOGPROB, "gradient": GRADIENT, "norm against TRL": NORM}
    return found.keys() == limits.keys() and all(
        math.isfinite(value) and value <= limits[name] for name, value in found.items()
    )
