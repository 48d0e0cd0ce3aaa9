"""Losses that TRL has too, against TRL's own code on the same log-probabilities."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.training.objectives.base import Objective
from tasks.training.objectives.dpo import Dpo, dpo
from tasks.training.objectives.f_dpo import Divergence, f_dpo
from tasks.training.objectives.ipo import Ipo
from tasks.training.objectives.rdpo import rdpo
from tasks.training.objectives.slic import Slic
from tasks.training.objectives.sppo import sppo
from tests.training.objective_batches import batch_of, values_of

PAIRS = 5
CHOSEN, REJECTED = 7, 4  # tokens


class _Accelerator:
    """Stands in for an Accelerator of one process."""

    device = torch.device("cpu")

    def gather(self, values: Tensor) -> Tensor:
        return values

    gather_for_metrics = gather


class _Model(torch.nn.Module):
    """Returns fixed log-probabilities."""

    def __init__(self, logprobs: Tensor) -> None:
        super().__init__()
        self.logprobs = logprobs

    def forward(self, **inputs: Any) -> SimpleNamespace:
        zeros = torch.zeros_like(self.logprobs)
        return SimpleNamespace(log_probs=self.logprobs, entropy=zeros, mean_logits=zeros, is_top1=zeros > 0)


class Pairs:
    """Random log-probabilities of tokens: chosen responses of 7 tokens, rejected ones of 4."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        noise = torch.Generator().manual_seed(3)
        self.mask = torch.ones(2 * PAIRS, CHOSEN + 1, dtype=torch.long)
        self.mask[:, 0] = 0  # the prompt
        self.mask[PAIRS:, REJECTED + 1 :] = 0
        self.tokens = (torch.randn(2 * PAIRS, CHOSEN, generator=noise).to(dtype) - 2) * self.mask[:, 1:]
        self.reference = torch.randn(2 * PAIRS, generator=noise).to(dtype) - 15

    def only(self, pair: int) -> "Pairs":
        """A single pair."""
        alone, rows = Pairs(), [pair, PAIRS + pair]
        alone.mask, alone.tokens, alone.reference = self.mask[rows], self.tokens[rows], self.reference[rows]
        return alone

    def trl(self, loss: str, *, beta: float = 0.3, smoothing: float = 0.0, divergence: str = "reverse_kl") -> Tensor:
        """TRL's loss followed by its gradient with respect to the tokens."""
        from trl.trainer.dpo_trainer import DPOTrainer

        tokens = self.tokens.clone().requires_grad_()
        model = _Model(tokens).train()
        metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list)}
        trainer = SimpleNamespace(
            model=model,
            accelerator=_Accelerator(),
            aux_loss_enabled=False,
            ld_alpha=None,
            precompute_ref_logps=True,
            f_divergence_type=divergence,
            f_alpha_divergence_coef=0.5,
            loss_types=[loss],
            loss_weights=[1.0],
            beta=beta,
            label_smoothing=smoothing,
            use_weighting=False,
            _metrics=metrics,
            _total_train_tokens=0,
            _tp_size=1,
        )
        chosen, rejected = self.reference.chunk(2)
        inputs = {
            "input_ids": torch.zeros_like(self.mask),
            "attention_mask": torch.ones_like(self.mask),
            "completion_mask": self.mask,
            "ref_chosen_logps": chosen,
            "ref_rejected_logps": rejected,
        }
        compute: Any = DPOTrainer._compute_loss  # untyped, and given a stand-in for the trainer
        value = compute(trainer, model, inputs, False)
        (slope,) = torch.autograd.grad(value, tokens)
        return torch.cat([value.detach()[None], (slope * self.mask[:, 1:]).flatten()])

    def ours(self, loss: Any) -> Tensor:
        """The same for `loss`, a function of the log-ratios of chosen and rejected."""
        tokens = self.tokens.clone().requires_grad_()
        h = tokens.sum(1) - self.reference
        value = loss(*h.chunk(2)).mean()
        (slope,) = torch.autograd.grad(value, tokens)
        return torch.cat([value.detach()[None], (slope * self.mask[:, 1:]).flatten()])


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs()


def agree(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def by_objective(objective: Objective, lengths: tuple[int, int] = (CHOSEN, REJECTED)) -> Any:
    """An objective as a function of log-ratios; they pass through a batch."""

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        h = torch.stack([chosen, rejected, torch.zeros_like(chosen)], dim=1).flatten()
        tokens = torch.tensor([*lengths, 1] * PAIRS, dtype=torch.float64)
        return values_of(objective, batch_of(h, torch.ones(PAIRS).double(), lengths=tokens))

    return loss


def test_dpo(pairs: Pairs) -> None:
    agree(pairs.ours(lambda c, r: dpo(c, r, beta=0.3)), pairs.trl("sigmoid"))


def test_dpo_per_token(pairs: Pairs) -> None:
    agree(pairs.ours(by_objective(Dpo(beta=2.0, length="mean"))), pairs.trl("sigmoid_norm", beta=2.0))


def test_rdpo(pairs: Pairs) -> None:
    agree(pairs.ours(lambda c, r: rdpo(c, r, beta=0.3, flip_rate=0.2)), pairs.trl("robust", smoothing=0.2))


def test_slic(pairs: Pairs) -> None:
    agree(pairs.ours(by_objective(Slic(beta=0.3))), pairs.trl("hinge"))


def test_ipo_per_token(pairs: Pairs) -> None:
    agree(pairs.ours(by_objective(Ipo(beta=0.3, length="mean"))), pairs.trl("ipo"))


def test_sppo_with_hard_win_rates(pairs: Pairs) -> None:
    """TRL adds the two squares; the paper takes their mean."""
    one, zero = torch.ones(PAIRS).double(), torch.zeros(PAIRS).double()
    agree(pairs.ours(lambda c, r: 2 * sppo(c, r, one, zero, beta=0.3)), pairs.trl("sppo_hard"))


@pytest.mark.parametrize(("ours", "theirs"), [("forward_kl", "forward_kl"), ("jsd", "js_divergence")])
def test_f_dpo(pairs: Pairs, ours: Divergence, theirs: str) -> None:
    agree(pairs.ours(lambda c, r: f_dpo(c, r, beta=0.3, divergence=ours)), pairs.trl("sigmoid", divergence=theirs))


def test_nll_of_a_single_pair() -> None:
    """TRL averages over the tokens of all chosen responses. At equal lengths that is the mean over responses."""
    pairs = Pairs()
    both = Dpo(beta=0.3, nll=1.0)
    plain = pairs.ours(by_objective(Dpo(beta=0.3)))

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        h = torch.stack([chosen, rejected, torch.zeros_like(chosen)], dim=1).flatten()
        reference = torch.stack([pairs.reference[:PAIRS], pairs.reference[PAIRS:], torch.zeros(PAIRS)], dim=1).flatten()
        lengths = torch.tensor([CHOSEN, REJECTED, 1] * PAIRS, dtype=torch.float64)
        batch = batch_of(h, torch.ones(PAIRS).double(), lengths=lengths, reference=reference, logprobs=h + reference)
        return values_of(both, batch)

    agree(pairs.ours(loss) - plain, pairs.trl("sft"))


def test_f_dpo_alpha_in_single_precision() -> None:
    """TRL's coefficient is 1 - alpha, and it does not support float64."""
    pairs = Pairs(torch.float32)
    ours = pairs.ours(lambda c, r: f_dpo(c, r, beta=0.3, divergence="alpha", alpha=0.5))
    agree(ours, pairs.trl("sigmoid", divergence="alpha_divergence"), tolerance=1e-5)


def test_label_smoothing_of_a_single_pair(pairs: Pairs) -> None:
    """TRL's `aot` sorts a batch; for one pair it is cDPO."""
    for index in range(PAIRS):
        alone = pairs.only(index)
        agree(alone.ours(lambda c, r: dpo(c, r, beta=0.3, label_smoothing=0.1)), alone.trl("aot", smoothing=0.1))
