"""Annotator of kind `implicit_reward`: what an aligned policy has come to prefer over the one it started from.

score = beta * (log pi(y|x) - log pi_ref(y|x)) - length_penalty * characters(y), as in DICE (arXiv 2406.09760, where
beta is 1) and SeRA (arXiv 2410.09362). Each model reads prompt and response by its own chat template and tokenizer;
a response that ended by itself ends with the tokenizer's end token, one that was cut off does not.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from jinja2.exceptions import TemplateError
from pydantic import Field

from storage.errors import UserError
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import Scorer, policy_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.modeling.logprobs import TokenSequence


class ImplicitRewardSettings(Scorer):
    """Two policies' folders; or policy, previous, initial, which stand for those of the run."""

    kind: Literal["implicit_reward"]
    policy: str
    reference: str
    beta: float = Field(1.0, gt=0)
    # A character. level: what makes the best responses of the round as long as the worst (tasks/labeling/length).
    length_penalty: Annotated[float, Field(ge=0)] | Literal["level"] = 0.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: int = Field(16384, ge=1)  # padded tokens of one forward
    device: str = "auto"

    def reads(self) -> list[str]:
        return [self.policy, self.reference]

    def with_policies(self, name: str, policies: Mapping[str, Path]) -> Self:
        folders = {
            field: policy_folder(getattr(self, field), policies, where=f"annotators.{name}.{field}")
            for field in ("policy", "reference")
        }
        return self.model_copy(update=folders)


class ImplicitReward:
    """Deterministic. Raises UserError for a folder that is no policy."""

    kind: Literal["scores"] = "scores"
    lane: Literal["model"] = "model"

    def __init__(self, name: str, settings: ImplicitRewardSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin
        self._settings = settings
        self._policy = _Reader(settings.policy, settings, where=f"annotators.{name}.policy")
        self._reference = _Reader(settings.reference, settings, where=f"annotators.{name}.reference")

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        policy, reference = self._policy.logprobs(batch), self._reference.logprobs(batch)
        return [self._score(each, p, r) for each, p, r in zip(batch, policy, reference, strict=True)]

    def _score(self, response: Response, policy: float | str, reference: float | str) -> Score:
        for found in (policy, reference):
            if isinstance(found, str):
                return Score("error", raw=found)
        settings = self._settings
        penalty = 0.0 if settings.length_penalty == "level" else settings.length_penalty  # found when all is scored
        value = settings.beta * (policy - reference) - penalty * len(response.text)  # type: ignore[operator]
        return Score("score", value) if math.isfinite(value) else Score("error", raw=f"the score is {value}")


class _Reader:
    """One of the two models."""

    def __init__(self, folder: str, settings: ImplicitRewardSettings, *, where: str) -> None:
        from tasks.modeling.load import check_policy_folder, load_policy, load_tokenizer

        check_policy_folder(Path(folder))
        try:
            self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(Path(folder))
            self._model: PreTrainedModel = load_policy(Path(folder), dtype=settings.dtype, device=settings.device)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no policy can be loaded from {folder}: {error}", where=where, remedy="give a policy's folder"
            ) from None
        self._tokens = settings.batch_tokens
        self._longest = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)

    def logprobs(self, batch: Sequence[Response]) -> list[float | str]:
        """log p(response | prompt) of each, nats; a text where there is none, saying why."""
        from tasks.modeling.logprobs import sequence_logprobs

        found: list[float | str] = [0.0] * len(batch)
        rows: dict[int, TokenSequence] = {}
        for i, response in enumerate(batch):
            try:
                row = self._encode(response)
            except TemplateError as error:
                found[i] = f"the chat template refuses this conversation: {error}"
                continue
            if self._longest is not None and len(row) > self._longest:
                found[i] = f"{len(row)} tokens, the policy reads {self._longest}"
            elif not len(row.response):
                found[i] = "there are no tokens to score"
            else:
                rows[i] = row
        if rows:
            sums = sequence_logprobs(self._model, list(rows.values()), tokens=self._tokens)
            for i, logprob in zip(rows, sums.tolist(), strict=True):
                found[i] = logprob
        return found

    def _encode(self, response: Response) -> "TokenSequence":
        from tasks.modeling.load import encode_chat
        from tasks.modeling.logprobs import TokenSequence

        ids: list[int] = self._tokenizer(response.text, add_special_tokens=False, verbose=False)["input_ids"]
        if response.ended and self._tokenizer.eos_token_id is not None:
            ids = [*ids, self._tokenizer.eos_token_id]
        return TokenSequence(encode_chat(self._tokenizer, response.messages), ids)
