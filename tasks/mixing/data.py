"""The data stage of offline training: a preference set is read once, as pairs with token ids and as prompts."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from storage.artifact import Artifact
from storage.dataset_folders import content_digest
from storage.errors import UserError
from storage.manifest import Manifest
from storage.rows import Row, read_rows
from storage.schemas import MESSAGES, PREFERENCES, parquet_writer, table
from storage.stage import KeyedBy, Outcome, Progress, Spec, Unkeyed, run_stage, silent
from tasks.mixing.encode import OfflineCounts, PairEncoder
from tasks.mixing.shapes.pair import OfflinePair, Reading
from tasks.mixing.shapes.read import pairs_of
from tasks.modeling.hub_rows import hub_rows
from tasks.modeling.load import load_tokenizer

PAIRS = "pairs.parquet"
PROMPTS_FILE = "prompts.parquet"  # conf/prompts/data.yaml names it
_BLOCK = 1024  # pairs held at once
_PROMPT = pa.schema([pa.field("prompt", MESSAGES, nullable=False)])


class DataSettings(BaseModel):
    """A preference set to train on, in place of responses and votes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: A file or folder (docs/offline.md), or, with `split`, the id of a data set on the Hugging Face hub.
    path: Annotated[str, KeyedBy("data")]
    split: str | None = None  # split of a folder or of a hub data set
    p_hat: float = Field(0.9, gt=0.5, lt=1)  # P(chosen > rejected) for rows without p_hat and without scores
    score_fields: list[str] = ["score_chosen", "score_rejected"]  # of chosen and rejected; []: not read
    response_score: str = "helpfulness"  # the score of rows with one response each
    score_scale: float = Field(1.0, gt=0)  # P = sigmoid(score_scale * difference of the scores)
    transcripts: bool = False  # read "Human:" and "Assistant:" in chosen and rejected as turns (HH-RLHF)
    limit: int | None = Field(None, ge=1)  # read at most so many pairs
    too_long: Literal["refuse", "drop"] = "refuse"  # pairs that do not fit the policy's context
    refused_by_template: Literal["refuse", "drop"] = "refuse"  # conversations that the chat template refuses

    @field_validator("score_fields")
    @classmethod
    def _two_or_none(cls, fields: list[str]) -> list[str]:
        if len(fields) not in (0, 2):
            raise ValueError("name two fields, of chosen and of rejected: [score_chosen, score_rejected], or none: []")
        return fields

    @property
    def on_hub(self) -> bool:
        return self.split is not None and not Path(self.path).exists()

    def artifact(self) -> Artifact:
        """The file or folder; for a hub data set its id and split. Raises UserError for a path that is missing."""
        path = Path(self.path)
        digest = f"{self.path}:{self.split}" if self.on_hub else content_digest(path, split=self.split)
        return Artifact(path=path, digest=digest)

    def reading(self) -> Reading:
        return Reading(
            "data",
            p_hat=self.p_hat,
            score_fields=tuple(self.score_fields),
            response_score=self.response_score,
            scale=self.score_scale,
            transcripts=self.transcripts,
        )


class DataSpec(Spec):
    """Read the set into `folder`/pairs.parquet (storage.schemas.PREFERENCES) and prompts.parquet."""

    stage: ClassVar[str] = "data"
    version: ClassVar[int] = 1

    runs: ClassVar[str] = "tasks.mixing.data:run_data"

    settings: DataSettings
    data: Artifact  # settings.artifact()
    policy: Artifact  # its tokenizer and chat template write the token ids
    context: int  # tokens that the policy's positions reach to
    trust_remote_code: Annotated[bool, Unkeyed("whether the policy's code may run, not what it does")] = False


def run_data(spec: DataSpec, progress: Progress = silent) -> Manifest:
    """Run or adopt the data stage. Memory does not grow with texts: a block of pairs, and 16 bytes a response.

    Raises UserError, with file and row, for a row that is no pair, that the chat template refuses or that is too long
    (unless `drop`), and when no pair is left.
    """

    def body() -> Outcome:
        encoder = PairEncoder(load_tokenizer(spec.policy.path, trust_remote_code=spec.trust_remote_code))
        dropped, sources, seen = Counter[str](), Counter[str](), set[str]()
        rows = _rows(spec, encoder, dropped, sources)
        pairs_path, prompts_path = spec.folder / PAIRS, spec.folder / PROMPTS_FILE
        with parquet_writer(pairs_path, PREFERENCES) as pairs, parquet_writer(prompts_path, _PROMPT) as prompts:
            while block := list(islice(rows, _BLOCK)):
                pairs.write(table(block, PREFERENCES))
                new = {row["prompt_id"]: row["prompt"] for row in block if row["prompt_id"] not in seen}
                prompts.write(table([{"prompt": messages} for messages in new.values()], _PROMPT))
                seen |= new.keys()
                progress(pairs.count, 0, "pairs")
            if not pairs.count:
                raise _no_pairs(spec, encoder.counts, dropped)
        encoder.special.warn()
        spec.data.refuse_changed()
        summary: dict[str, Any] = asdict(encoder.counts)
        summary |= {f"p_hat_from_{source}": count for source, count in sorted(sources.items())}
        summary |= {f"dropped_{why}": count for why, count in sorted(dropped.items())}
        counts = {PAIRS: pairs.count, PROMPTS_FILE: prompts.count}
        return Outcome(paths=[pairs_path, prompts_path], rows=counts, summary=summary)

    return run_stage(spec, body)


def _rows(
    spec: DataSpec, encoder: PairEncoder, dropped: Counter[str], sources: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Rows of PREFERENCES. dropped: by reason; sources: where P comes from, and ties. Both are added to."""
    settings = spec.settings
    for pair in islice(pairs_of(_source(settings), settings.reading()), settings.limit):
        try:
            row = encoder.row(pair)
        except UserError:
            if settings.refused_by_template == "refuse":
                raise
            dropped["refused_by_template"] += 1
            continue
        if row is None:
            continue
        tokens = len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        if tokens > spec.context:
            if settings.too_long == "refuse":
                raise _too_long(pair, tokens, spec.context)
            dropped["too_long"] += 1
            continue
        sources[pair.source] += 1
        if pair.p_hat == 0.5:
            sources["ties"] += 1
        yield row


def _source(settings: DataSettings) -> Iterator[tuple[str, Row]]:
    if settings.on_hub:
        assert settings.split is not None
        return hub_rows(settings.path, settings.split, setting="data")
    return read_rows(Path(settings.path), split=settings.split)


def _too_long(pair: OfflinePair, tokens: int, context: int) -> UserError:
    return UserError(
        f"prompt and response have {tokens} tokens, and the policy's context has {context}",
        where=pair.where,
        remedy="leave such pairs out: data.too_long=drop; or choose a policy with a longer context",
    )


def _no_pairs(spec: DataSpec, counts: OfflineCounts, dropped: Counter[str]) -> UserError:
    reasons = {"with equal responses": counts.equal, "too long": dropped["too_long"],
               "refused by the chat template": dropped["refused_by_template"]}  # fmt: skip
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    return UserError(
        f"no pair is left of {counts.rows}" + (f" ({why})" if why else ""),
        where=spec.settings.path,
        remedy="give a file with other pairs, or a policy with a longer context" if counts.rows else "give pairs",
    )
