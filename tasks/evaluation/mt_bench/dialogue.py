"""The dialogue stage of MT-Bench: the policy answers the two turns of every question, the second after its own first.

One response each, sampled at the temperature of the question's category (arXiv 2306.05685, FastChat's llm_judge).
Publishes dialogues.parquet (storage.schemas.DIALOGUES).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from storage.artifact import Artifact
from storage.errors import UserError
from storage.manifest import Manifest
from storage.prompts import read_rows
from storage.schemas import DIALOGUES, table, write_parquet
from storage.stage import Outcome, Progress, Spec, TaskName, run_stage, silent
from tasks.generation.engines import Engine, Request
from tasks.generation.registry import AnyEngine
from tasks.generation.settings import SamplingSettings
from tasks.generation.stage import context_length, request_seed
from tasks.modeling.load import encode_chat, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "dialogues.parquet"
#: Sampling temperature by category; of any other it is that of writing.
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1,
                "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0}  # fmt: skip
_OTHER = 0.7
_TURNS = 2


class DialogueSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(1024, ge=1)  # of one answer; fewer where the context ends
    engine: AnyEngine
    trust_remote_code: bool = False


class DialogueSpec(Spec):
    """Have `policy` answer `questions`."""

    stage: ClassVar[str] = "dialogue"
    version: ClassVar[int] = 1

    runs: ClassVar[str] = "tasks.evaluation.mt_bench.dialogue:run"
    task: ClassVar[TaskName] = "generate"
    samples: ClassVar[bool] = True

    settings: DialogueSettings
    policy: Artifact
    questions: Artifact  # JSONL: question_id, category, turns [2], and reference [2] where there is one
    references: Artifact | None = None  # JSONL: question_id, choices[0].turns; instead of the questions' own


def run(spec: DialogueSpec, progress: Progress = silent, engine: Engine | None = None) -> Manifest:
    """Answer every question. A given engine is used and left open; without one, one is opened and closed.

    Raises UserError for malformed questions and for those that do not fit the policy's context, and what the engine
    raises.
    """

    def body() -> Outcome:
        settings = spec.settings
        used = engine or settings.engine.open(
            trust_remote_code=settings.trust_remote_code, log=spec.folder / "engine.log"
        )
        try:
            return _Dialogues(spec, used, progress).run()
        finally:
            if engine is None:
                used.close()

    return run_stage(spec, body)


class _Dialogues:
    def __init__(self, spec: DialogueSpec, engine: Engine, progress: Progress) -> None:
        self.spec, self.engine, self.progress = spec, engine, progress
        settings = spec.settings
        self.questions = read_questions(spec.questions.path, spec.references.path if spec.references else None)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(
            spec.policy.path, trust_remote_code=settings.trust_remote_code
        )
        self.context = settings.engine.max_model_len or context_length(
            spec.policy.path, trust_remote_code=settings.trust_remote_code
        )

    def run(self) -> Outcome:
        self.engine.load(self.spec.policy.path)
        rows = [question | {"replies": [], "finish_reasons": []} for question in self.questions]
        for turn in range(_TURNS):
            for temperature in sorted({_temperature(row) for row in rows}):
                self._answer([row for row in rows if _temperature(row) == temperature], turn, temperature)
            self.progress((turn + 1) * len(rows), _TURNS * len(rows), "answers")
        path = self.spec.folder / FILE
        write_parquet(path, table(rows, DIALOGUES))
        cut = sum(reason == "length" for row in rows for reason in row["finish_reasons"])
        return Outcome(paths=[path], rows={"questions": len(rows)}, summary={"cut": cut})

    def _answer(self, rows: list[dict[str, Any]], turn: int, temperature: float) -> None:
        """Append the answers of one turn. Questions with the same room for an answer are one batch."""
        batches: dict[int, list[tuple[dict[str, Any], Request]]] = {}
        for row in rows:
            ids = encode_chat(self.tokenizer, conversation(row["turns"], row["replies"], turn))
            room = min(self.spec.settings.max_tokens, self.context - len(ids))
            if room < 1 and turn == 0:
                raise UserError(
                    f"question {row['question_id']} has {len(ids)} tokens, the policy's context {self.context}",
                    where=str(self.spec.questions.path),
                    remedy="raise engine.max_model_len if the policy reaches further, or leave the question out",
                )
            seed = request_seed(self.spec.seed, self.spec.round, f"{row['question_id']}/{turn}")
            batches.setdefault(max(room, 0), []).append((row, Request(ids, seed)))
        for room, batch in sorted(batches.items()):
            if not room:  # the first answer has filled the context: there is nothing to say
                for row, _ in batch:
                    row["replies"].append("")
                    row["finish_reasons"].append("length")
                continue
            sampling = SamplingSettings(responses=1, temperature=temperature, max_tokens=room)
            drawn = self.engine.sample([request for _, request in batch], sampling)
            for (row, _), (sample,) in zip(batch, drawn, strict=True):
                row["replies"].append(str(self.tokenizer.decode(sample.token_ids, skip_special_tokens=True)))
                row["finish_reasons"].append(sample.finish_reason)


def conversation(turns: Sequence[str], replies: Sequence[str], turn: int) -> list[dict[str, str]]:
    """The messages before the reply of `turn` (0 or 1), earlier replies among them."""
    messages = []
    for earlier in range(turn):
        messages.append({"role": "user", "content": turns[earlier]})
        messages.append({"role": "assistant", "content": replies[earlier]})
    return [*messages, {"role": "user", "content": turns[turn]}]


def read_questions(path: Path, references: Path | None = None) -> list[dict[str, Any]]:
    """The questions, each with `references` (None where there are none). Raises UserError with file and line."""
    found = []
    known = {str(row.get("question_id")): row["choices"][0]["turns"] for _, row in read_rows(references)} if (
        references) else {}  # fmt: skip
    for where, row in read_rows(path):
        turns = row.get("turns")
        if not isinstance(turns, list) or len(turns) != _TURNS or "question_id" not in row:
            raise UserError(
                f"this is no question of {_TURNS} turns",
                where=where,
                remedy='write {"question_id": 81, "category": "writing", "turns": ["...", "..."]}',
            )
        name = str(row["question_id"])
        own = known.get(name) or row.get("reference") or None
        category = str(row.get("category", "general"))
        found.append({"question_id": name, "category": category, "turns": turns, "references": own})
    if not found:
        raise UserError("there is no question", where=str(path), remedy="give a JSONL file with one a line")
    return found


def _temperature(question: dict[str, Any]) -> float:
    return TEMPERATURES.get(question["category"], _OTHER)
