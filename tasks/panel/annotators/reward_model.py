"""Annotator of kind `reward_model`: a transformers sequence classifier with one label scores whole conversations."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from storage.errors import UserError
from tasks.modeling.chat_template import fix_template
from tasks.modeling.conversation import RefusedConversation, encode_whole, prepare_wholes
from tasks.panel.annotators.protocol import Response, Score
from tasks.panel.annotators.settings import ScoresWithModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RewardModelSettings(ScoresWithModel):
    """A transformers sequence-classification folder or id with one label."""

    kind: Literal["reward_model"] = "reward_model"
    path: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16 on a GPU, float32 on a CPU
    batch_tokens: int = Field(16384, ge=1)  # padded tokens of one forward, on a CPU of all at a time
    device: str = "auto"

    def open(self, name: str, *, seed: int) -> "RewardModel":
        return RewardModel(name, self)

    def check(self, name: str) -> None:
        """A path that looks like a hub id (owner/name) is not checked."""
        local = self.path.startswith((".", "/", "artifacts")) or self.path.count("/") != 1
        if local and not (Path(self.path) / "config.json").is_file():
            raise UserError(
                f"the reward model of {name!r} is not a model folder: config.json is missing",
                where=self.path,
                remedy="give the folder or hub id of a sequence-classification model",
            )
        if local:
            _check_labels(json.loads((Path(self.path) / "config.json").read_text(encoding="utf-8")), name, self.path)
            self.check_template(name, Path(self.path))

    def files(self) -> list[str]:
        return [self.path]

    def models(self) -> list[str]:
        return [self.path]


class RewardModel:
    """Scores the prompt's messages and the response as the assistant's turn, in the model's own chat template
    (or as "prompt\\n\\nresponse" if its tokenizer has none). The score is read at the last token of the conversation
    as the template renders it. A conversation too long for the model is an error; nothing is cut.

    Deterministic: equal batches give equal scores. Raises UserError for a folder without a reward model; weights are
    read at the first vote, and freed by `close`.
    """

    answer_type: Literal["scores"] = "scores"
    lane: Literal["model"] = "model"

    def __init__(self, name: str, settings: RewardModelSettings) -> None:
        self.name = name
        self.tie_margin = settings.tie_margin
        self._batch_tokens = settings.batch_tokens
        self._settings = settings
        self._model: PreTrainedModel | None = None
        checked = _load(name, settings, on_meta=True)
        self._longest = getattr(checked.config.get_text_config(), "max_position_embeddings", None)
        self._tokenizer = _tokenizer(name, settings)

    def vote(self, batch: Sequence[Response]) -> list[Score]:
        from tasks.modeling.forwards import forwards

        scores: list[Score | None] = [None] * len(batch)
        places: dict[tuple[int, ...], list[int]] = {}  # token ids -> which responses have them: equal ones tie exactly
        if self._tokenizer.chat_template is not None:
            prepare_wholes(self._tokenizer, ((response.messages, response.text) for response in batch))
        for i, response in enumerate(batch):
            try:
                ids = self._encode(response)
            except RefusedConversation as refused:
                scores[i] = Score("error", raw=refused.what)
                continue
            if self._longest is not None and len(ids) > self._longest:
                scores[i] = Score("error", raw=f"{len(ids)} tokens; the reward model reads at most {self._longest}")
                continue
            places.setdefault(tuple(ids), []).append(i)
        rows = list(places)

        def score(model: "PreTrainedModel", numbers: list[int]) -> list[float]:
            return _forward(model, [rows[number] for number in numbers])

        for numbers, values in forwards(self._loaded(), [len(row) for row in rows], self._batch_tokens, score):
            for number, value in zip(numbers, values, strict=True):
                finite = math.isfinite(value)
                answer = Score("score", value) if finite else Score("error", raw=f"the model's score is {value}")
                for i in places[rows[number]]:
                    scores[i] = answer
        return [score for score in scores if score is not None]

    def _loaded(self) -> "PreTrainedModel":
        if self._model is None:
            self._model = _load(self.name, self._settings)
        return self._model

    def close(self) -> None:
        from tasks.modeling.load import unload

        if self._model is not None:
            unload(self._model)
            self._model = None

    def _encode(self, response: Response) -> list[int]:
        if self._tokenizer.chat_template is None:
            text = "\n\n".join([*(message["content"] for message in response.messages), response.text])
            plain: list[int] = self._tokenizer(text)["input_ids"]
            return plain
        return encode_whole(self._tokenizer, response.messages, response.text)


def _forward(model: "PreTrainedModel", rows: Sequence[Sequence[int]]) -> list[float]:
    """The score of each row of token ids."""
    import torch

    config = model.config.get_text_config()
    width = max(len(row) for row in rows)
    own_pad = config.pad_token_id
    pad = own_pad if own_pad is not None else _unused_id(rows)
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    try:
        config.pad_token_id = pad
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    finally:
        config.pad_token_id = own_pad
    scores: list[float] = logits[:, 0].double().cpu().tolist()
    return scores


def _unused_id(rows: Sequence[Sequence[int]]) -> int:
    """The smallest token id that is in none of `rows`.

    A causal classifier reads the score at the last token that is not padding. If the model names no pad token, a pad
    id that no row contains makes that the last token of every row, whatever the batch.
    """
    used = set().union(*rows)
    return next(i for i in range(len(used) + 1) if i not in used)


def _check_labels(config: dict[str, Any], name: str, path: str) -> None:
    """Raises UserError when a model's config.json has other than one label. transformers counts two by default."""
    labels = config.get("num_labels", len(config.get("id2label") or "ab"))
    if labels != 1:
        raise UserError(
            f"{path} has {labels} labels, but a reward model has one",
            where=f"annotators.{name}.path",
            remedy="give a sequence-classification folder saved with num_labels=1",
        )


def _load(name: str, settings: RewardModelSettings, *, on_meta: bool = False) -> "PreTrainedModel":
    """The model in eval mode on its device; `on_meta`: checked as when it is loaded, but without its weights."""
    import torch

    from tasks.modeling.load import resolve_device
    from tasks.modeling.pretrained import read_config, read_model

    device = resolve_device(settings.device)
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    where = f"annotators.{name}.path"
    try:
        config = read_config(settings.path, trust_remote_code=settings.trust_remote_code)
        _check_labels({"num_labels": config.num_labels}, name, settings.path)
        loaded, report = read_model(
            "classifier",
            settings.path,
            dtype=getattr(torch, dtype),
            device_map="meta" if on_meta else None,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise _unloadable(settings, where, error) from None
    if report["missing_keys"]:
        # transformers only warns, and initialises the score head at random.
        raise UserError(
            f"weights are missing in {settings.path}: {sorted(report['missing_keys'])}",
            where=where,
            remedy="give a trained reward model, not a language model",
        )
    placed = loaded if on_meta else loaded.to(device)  # type: ignore[arg-type]  # takes a name
    return cast("PreTrainedModel", placed.eval())


def _tokenizer(name: str, settings: RewardModelSettings) -> "PreTrainedTokenizerBase":
    from tasks.modeling.load import load_tokenizer

    try:
        tokenizer = load_tokenizer(settings.path, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        raise _unloadable(settings, f"annotators.{name}.path", error) from None
    fix_template(tokenizer, settings.template_values, where=f"annotators.{name}.template_arguments")
    return tokenizer


def _unloadable(settings: RewardModelSettings, where: str, error: Exception) -> UserError:
    return UserError(
        f"cannot load a reward model from {settings.path}: {error}",
        where=where,
        remedy="give a sequence classifier (folder or hub id) with safetensors weights and a tokenizer",
    )
