"""Sampling with transformers alone: slow, simple, and exact enough to test the vLLM engine against."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from storage.errors import UserError
from tasks.generation.engines import EngineSettings, Mixture, Request, Sample
from tasks.generation.settings import SamplingSettings
from tasks.modeling.end_tokens import end_tokens
from tasks.modeling.load import load_policy, load_tokenizer, unload

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH = 64  # sequences sampled together


class TransformersSettings(EngineSettings):
    mixes: ClassVar[bool] = True

    kind: Literal["transformers"] = "transformers"

    def open(self, *, trust_remote_code: bool = False, log: Path | None = None) -> "TransformersEngine":
        """Raises UserError for several workers: they need a cluster, or vLLM."""
        if self.workers > 1:
            raise UserError(
                f"this machine has one engine of kind transformers, not {self.workers}",
                where=f"engine.workers={self.workers}",
                remedy="set engine.workers=1, use vLLM (engine=vllm), or several machines (cluster=ray)",
            )
        return TransformersEngine(self, trust_remote_code=trust_remote_code)


class TransformersEngine:
    """An Engine in this process, on the GPU if there is one.

    Each response has its own generator of uniform numbers, seeded by (request's seed, response's index), and inverts
    the cumulative distribution. So a response does not depend on the others in its batch, unless a uniform number falls
    within float rounding of a boundary. With a mixture both models are in memory, and every token takes a forward of
    each.
    """

    def __init__(self, settings: EngineSettings, *, trust_remote_code: bool = False) -> None:
        self._settings = settings
        self._trust_remote_code = trust_remote_code
        self._model: PreTrainedModel | None = None
        self._other: PreTrainedModel | None = None
        self._mixture: Mixture | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._ends: list[int] = []

    def check(self, policy: Path) -> None:
        """Refuses nothing: transformers loads whatever the training forward loads."""

    def prepare(self, policy: Path) -> None:
        """Does nothing: `load` only reads the weights."""

    def load(self, policy: Path) -> None:
        self.close()
        self._tokenizer = load_tokenizer(policy, trust_remote_code=self._trust_remote_code)
        self._model = self._read(policy)
        self._ends = end_tokens(policy, trust_remote_code=self._trust_remote_code)

    def load_mixture(self, policy: Path, mixture: Mixture) -> None:
        """As MixingEngine. Raises UserError when the two policies have vocabularies of different sizes."""
        self.load(policy)
        self._mixture, self._other = mixture, self._read(mixture.policy)
        sizes = [int(model.config.vocab_size) for model in (self._model, self._other) if model is not None]
        if sizes[0] != sizes[1]:
            self.close()
            raise UserError(
                f"policy and reference cannot be mixed: their vocabularies have {sizes[0]} and {sizes[1]} tokens",
                where=f"{policy}, {mixture.policy}",
                remedy="use a reference that the policy was trained from: objective.reference=initial",
            )

    def _read(self, policy: Path) -> "PreTrainedModel":
        return load_policy(policy, dtype=self._settings.dtype, device="auto", trust_remote_code=self._trust_remote_code)

    def pause(self) -> None:
        if self._settings.while_paused() != "keep":
            self.close()

    def close(self) -> None:
        for model in (self._model, self._other):
            if model is not None:
                unload(model)
        self._model = self._other = self._tokenizer = None
        self._mixture = None

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        import torch

        rows = [(request, index) for request in requests for index in range(sampling.responses)]
        samples: list[Sample] = []
        with torch.inference_mode():
            for start in range(0, len(rows), _BATCH):
                samples += self._batch(rows[start : start + _BATCH], sampling)
        m = sampling.responses
        return [samples[i : i + m] for i in range(0, len(samples), m)]

    def _batch(self, rows: Sequence[tuple[Request, int]], sampling: SamplingSettings) -> list[Sample]:
        import torch

        if self._model is None:
            raise RuntimeError("load a policy before sampling")
        device = self._model.device
        share = self._shares(rows).to(device)
        draws = np.stack([np.random.default_rng([r.seed, j]).random(sampling.max_tokens) for r, j in rows])
        uniform = torch.from_numpy(draws).to(device)  # [rows, max_tokens], float64
        ids, mask = _left_padded([request.prompt_ids for request, _ in rows])
        step, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        tokens: list[list[int]] = [[] for _ in rows]
        logprobs: list[list[float]] = [[] for _ in rows]
        running = set(range(len(rows)))
        stopped: set[int] = set()
        forwards = [_Forward(model) for model in (self._model, self._other) if model is not None]
        for t in range(sampling.max_tokens):
            raw, *other = (forward(step, mask, positions) for forward in forwards)
            drawn_from = mixed(raw, other[0], share) if other else raw
            chosen = choose(drawn_from, uniform[:, t], sampling)
            values = raw.gather(1, chosen[:, None])[:, 0].tolist()
            for i in sorted(running):
                tokens[i].append(int(chosen[i]))
                logprobs[i].append(values[i])
                if tokens[i][-1] in self._ends or self._has_stop_string(tokens[i], sampling.stop):
                    stopped.add(i)
            running -= stopped
            if not running:
                break
            step = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=1)
            positions = positions[:, -1:] + 1
        return [
            Sample(tokens[i], logprobs[i], finish_reason="stop" if i in stopped else "length") for i in range(len(rows))
        ]

    def _shares(self, rows: Sequence[tuple[Request, int]]) -> "torch.Tensor":
        """The other policy's share in each row, float32 [rows, 1]."""
        import torch

        mixture = self._mixture
        shares = [mixture.share if mixture is not None and index >= mixture.first else 0.0 for _, index in rows]
        return torch.tensor(shares)[:, None]

    def _has_stop_string(self, tokens: list[int], stop: list[str]) -> bool:
        if not stop or self._tokenizer is None:
            return False
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return any(string in text for string in stop)


class _Forward:
    """A model with the cache of the batch that it is sampling."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model: Any = model
        self._cache: Any = None

    def __call__(self, step: "torch.Tensor", mask: "torch.Tensor", positions: "torch.Tensor") -> "torch.Tensor":
        """Log-probabilities of the next token, float32 [rows, vocabulary]."""
        output = self._model(
            input_ids=step,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        result: torch.Tensor = output.logits[:, -1].float().log_softmax(-1)
        return result


def mixed(policy: "torch.Tensor", other: "torch.Tensor", share: "torch.Tensor") -> "torch.Tensor":
    """Log-probabilities of pi_other^share pi^(1-share), normalised; all [rows, vocabulary], share [rows, 1].

    A token that one of the two cannot produce has probability 0 where its share is not 0. Rows with share 0 are those
    of the policy, bit by bit.
    """
    import torch

    own = torch.where(share < 1, (1 - share) * policy, 0.0)  # not 0 * -inf
    theirs = torch.where(share > 0, share * other, 0.0)
    return torch.where(share == 0, policy, (own + theirs).log_softmax(-1))


def _left_padded(prompts: list[list[int]]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Token ids and mask, both int64 [prompts, longest prompt]; padding is 0 in both."""
    import torch

    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    return ids, mask


def choose(logprobs: "torch.Tensor", uniform: "torch.Tensor", sampling: SamplingSettings) -> "torch.Tensor":
    """Token ids [rows], int64, drawn from log-probabilities [rows, vocabulary] by uniform numbers [rows] in [0, 1).

    top_k first, then top_p on the remaining tokens, as in vLLM; temperature 0 takes the likeliest token.
    """
    import torch

    if sampling.temperature == 0:
        return logprobs.argmax(-1)
    ordered, order = (logprobs.double() / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = -torch.inf
    probabilities = ordered.softmax(-1)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    cumulative = probabilities.cumsum(-1)
    threshold = (uniform[:, None] * cumulative[:, -1:]).contiguous()
    last = (probabilities > 0).sum(-1, keepdim=True) - 1  # rounding must not reach into what was cut off
    rank = torch.searchsorted(cumulative, threshold, right=True).minimum(last)
    return order.gather(1, rank)[:, 0]
