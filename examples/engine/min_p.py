"""min-p sampling with transformers' `generate`: only tokens with at least min_p times the top probability are drawn.

Source: Nguyen et al., Turning Up the Heat: Min-p Sampling (arXiv 2407.01082).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.generation.engines import EngineSettings, Request, Sample, end_tokens
from tasks.generation.settings import SamplingSettings
from tasks.modeling.load import load_policy, load_tokenizer, unload


class MinPSettings(EngineSettings):
    kind: str = "min-p"
    min_p: float = Field(0.05, ge=0, lt=1)  # 0 = all tokens

    def open(self, *, trust_remote_code: bool = False, log: Path | None = None) -> MinPEngine:
        return MinPEngine(self, trust_remote_code=trust_remote_code)


class MinPEngine:
    """Samples one response at a time. A response depends only on its request's seed and its index."""

    def __init__(self, settings: MinPSettings, *, trust_remote_code: bool) -> None:
        self._settings = settings
        self._trust_remote_code = trust_remote_code
        self._model: Any = None
        self._tokenizer: Any = None
        self._end_tokens: list[int] = []

    def check(self, policy: Path) -> None:
        """Refuses nothing."""

    def prepare(self, policy: Path) -> None:
        """Does nothing: `load` is fast."""

    def load(self, policy: Path) -> None:
        self.close()
        trust = self._trust_remote_code
        self._model = load_policy(policy, dtype=self._settings.dtype, device="auto", trust_remote_code=trust)
        self._tokenizer = load_tokenizer(policy, trust_remote_code=trust)
        self._end_tokens = end_tokens(policy, trust_remote_code=trust)

    def sample(self, requests: Sequence[Request], sampling: SamplingSettings) -> list[list[Sample]]:
        return [
            [self._response(request, index, sampling) for index in range(sampling.responses)] for request in requests
        ]

    def pause(self) -> None:
        if self._settings.while_paused() != "keep":
            self.close()

    def close(self) -> None:
        if self._model is not None:
            unload(self._model)
        self._model = None

    def _response(self, request: Request, index: int, sampling: SamplingSettings) -> Sample:
        import torch
        from transformers import GenerationConfig

        config = GenerationConfig(
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or None,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=self._settings.min_p,
            max_new_tokens=sampling.max_tokens,
            stop_strings=sampling.stop or None,
            eos_token_id=self._end_tokens,
            pad_token_id=self._end_tokens[0],
            output_logits=True,
            return_dict_in_generate=True,
        )
        prompt = torch.tensor([request.prompt_ids], device=self._model.device)
        with torch.random.fork_rng():
            torch.manual_seed(request.seed + index)
            output = self._model.generate(
                prompt, attention_mask=torch.ones_like(prompt), generation_config=config, tokenizer=self._tokenizer
            )
        ids = output.sequences[0, prompt.shape[1] :]
        # Log-probabilities under the policy itself: before temperature, top_p, top_k and min_p.
        logprobs = torch.cat(output.logits).float().log_softmax(-1).gather(1, ids[:, None])[:, 0]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        stopped = int(ids[-1]) in self._end_tokens or any(stop in text for stop in sampling.stop)
        return Sample(ids.tolist(), logprobs.tolist(), finish_reason="stop" if stopped else "length")
