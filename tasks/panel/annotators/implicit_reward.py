"""Annotator of kind `implicit_reward`: how much more likely a policy makes a response than its reference does.

score = beta * (log pi(y|x) - log pi_ref(y|x)) - length_penalty * characters(y), as in DICE (arXiv 2406.09760, where
beta is 1) and SeRA (arXiv 2410.09362). Each model uses its own chat template and tokenizer. A complete response ends
with the token that ends turns in that template; one that was cut off does not.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from storage.errors import UserError
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import POLICY_NAMES, ScoresWithModel, policy_folder, same_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.modeling.logprobs import TokenSequence


class ImplicitRewardSettings(ScoresWithModel):
    """Two policies: folders, or policy, previous, initial for the run's own."""

    kind: Literal["implicit_reward"] = "implicit_reward"
    policy: str
    reference: str
    beta: float = Field(1.0, gt=0)
    # Per character. level: the penalty at which the round's best responses are as long as its worst ones
    # (tasks/labeling/length_penalty.py).
    length_penalty: Annotated[float, Field(ge=0)] | Literal["level"] = 0.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: int = Field(16384, ge=1)  # padded tokens of one forward
    device: str = "auto"

    def open(self, name: str, *, seed: int) -> "ImplicitReward":
        return ImplicitReward(name, self)

    def check(self, name: str) -> None:
        from tasks.modeling.load import check_policy_folder

        for folder in self.files():
            if folder not in POLICY_NAMES:
                check_policy_folder(Path(folder), trust_remote_code=self.trust_remote_code)
                self.check_template(name, Path(folder))

    def files(self) -> list[str]:
        return [self.policy, self.reference]

    def models(self) -> list[str]:
        return [self.policy, self.reference]

    def only_ties(self, policies: Mapping[str, str]) -> bool:
        policy, reference = (same_model(policies.get(model, model)) for model in (self.policy, self.reference))
        return policy == reference

    def unfit_to_judge(self) -> str | None:
        if self.length_penalty == "level":
            return "levels lengths over a round's votes; give length_penalty a number"
        return super().unfit_to_judge()

    def with_policies(self, name: str, policies: Mapping[str, Path]) -> Self:
        folders = {
            field: policy_folder(getattr(self, field), policies, where=f"annotators.{name}.{field}")
            for field in ("policy", "reference")
        }
        return type(self)(**(dict(self) | folders))


class ImplicitReward:
    """Scores by the formula above. Deterministic. Raises UserError for a folder without a policy.

    Weights are read at the first vote, and freed by `close`.
    """

    answer_type: Literal["scores"] = "scores"
    lane: Literal["model"] = "model"

    def __init__(self, name: str, settings: ImplicitRewardSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin
        self._settings = settings
        self._policy = _PolicyLogprobs(settings.policy, settings, where=f"annotators.{name}.policy")
        self._reference = _PolicyLogprobs(settings.reference, settings, where=f"annotators.{name}.reference")

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        policy, reference = self._policy.logprobs(batch), self._reference.logprobs(batch)
        return [self._score(*row) for row in zip(batch, policy, reference, strict=True)]

    def close(self) -> None:
        self._policy.close()
        self._reference.close()

    def _score(self, response: Response, policy: float | str, reference: float | str) -> Score:
        if isinstance(policy, str):
            return Score("error", raw=policy)
        if isinstance(reference, str):
            return Score("error", raw=reference)
        settings = self._settings
        # The label stage subtracts a "level" penalty once all responses are scored.
        penalty = 0.0 if settings.length_penalty == "level" else settings.length_penalty
        value = settings.beta * (policy - reference) - penalty * len(response.reply)
        return Score("score", value) if math.isfinite(value) else Score("error", raw=f"the score is {value}")


class _PolicyLogprobs:
    """Log-probabilities of responses by one of the two models."""

    def __init__(self, folder: str, settings: ImplicitRewardSettings, *, where: str) -> None:
        from tasks.modeling.chat_template import fix_template
        from tasks.modeling.load import check_policy_folder, load_tokenizer
        from tasks.modeling.pretrained import read_config

        trust = settings.trust_remote_code
        check_policy_folder(Path(folder), trust_remote_code=trust)
        try:
            self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(Path(folder), trust_remote_code=trust)
            config = read_config(folder, trust_remote_code=trust)
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot load a policy from {folder}: {error}", where=where, remedy="give the folder of a policy"
            ) from None
        fix_template(self._tokenizer, settings.template_values, where=where)
        self._folder, self._settings = Path(folder), settings
        self._model: PreTrainedModel | None = None
        self._longest = getattr(config.get_text_config(), "max_position_embeddings", None)

    def close(self) -> None:
        from tasks.modeling.load import unload

        if self._model is not None:
            unload(self._model)
            self._model = None

    def _loaded(self) -> "PreTrainedModel":
        from tasks.modeling.load import load_policy

        if self._model is None:
            settings = self._settings
            self._model = load_policy(
                self._folder, dtype=settings.dtype, device=settings.device, trust_remote_code=settings.trust_remote_code
            )
        return self._model

    def logprobs(self, batch: Sequence[Response]) -> list[float | str]:
        """log p(response | prompt) of each response, in nats; or a text that says why there is none."""
        from tasks.modeling.conversation import RefusedConversation
        from tasks.modeling.logprobs import sequence_logprobs

        logprobs: list[float | str] = [0.0] * len(batch)
        rows: dict[int, TokenSequence] = {}
        for i, response in enumerate(batch):
            if response.reasoning and not response.text and not response.ended:
                logprobs[i] = (
                    "the reply was cut off in its thought, and the chat template does not write half a thought"
                )
                continue
            try:
                row = self._encode(response)
            except RefusedConversation as refused:
                logprobs[i] = refused.what
                continue
            if self._longest is not None and len(row) > self._longest:
                logprobs[i] = f"{len(row)} tokens; the policy reads at most {self._longest}"
            elif not len(row.response):
                logprobs[i] = "the response has no tokens"
            else:
                rows[i] = row
        if rows:
            sums = sequence_logprobs(self._loaded(), list(rows.values()), tokens=self._settings.batch_tokens)
            for i, logprob in zip(rows, sums.tolist(), strict=True):
                logprobs[i] = logprob
        return logprobs

    def _encode(self, response: Response) -> "TokenSequence":
        from tasks.modeling.conversation import encode_reply
        from tasks.modeling.logprobs import TokenSequence

        encoded = encode_reply(self._tokenizer, response.messages, response.reply, ended=response.ended)
        return TokenSequence(encoded.prompt_ids, encoded.reply_ids)
