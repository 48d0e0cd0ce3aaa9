"""The dialogue stage of MT-Bench: the policy answers both turns of every question, the second after its first answer.

One response a turn, sampled at the temperature of the question's category (arXiv 2306.05685, FastChat's llm_judge).
Publishes dialogues.parquet (storage.schemas.DIALOGUES).
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from storage.artifact import Artifact
from storage.errors import UserError
from storage.manifest import Manifest
from storage.schemas import DIALOGUES, table, write_parquet
from storage.stage import Outcome, Progress, Spec, TaskName, run_stage, silent
from tasks.cluster_settings import ClusterSettings, Where
from tasks.evaluation.mt_bench.questions import TURNS, Question, conversation, read_questions
from tasks.generation.encode import context_length, request_seed
from tasks.generation.engines import Engine, Request
from tasks.generation.registry import AnyEngine
from tasks.generation.settings import SamplingSettings
from tasks.modeling.conversation import RefusedConversation, check_turn_end, encode_chat, reply_text
from tasks.modeling.end_tokens import end_tokens
from tasks.modeling.load import load_tokenizer
from tasks.modeling.reasoning import split_reasoning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "dialogues.parquet"
#: Sampling temperature by category; other categories have that of writing.
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1,
                "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0}  # fmt: skip
_OTHER = 0.7


class DialogueSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(1024, ge=1)  # of one answer; fewer when the context is full
    engine: AnyEngine
    cluster: Where = ClusterSettings()
    trust_remote_code: bool = False
    reasoning_end: str | None = "</think>"  # answers are what follows it in a reply; None: the whole reply


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
    references: Artifact | None = None  # JSONL: question_id, choices[0].turns; replaces the questions' own


def run(spec: DialogueSpec, progress: Progress = silent, engine: Engine | None = None) -> Manifest:
    """Answer every question. A given engine stays open; without one, an engine is opened and closed here.

    Raises UserError for malformed questions and for questions that do not fit the policy's context, and the errors of
    the engine.
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


@dataclass
class _Dialogue:
    """A question and the policy's replies so far."""

    question: Question
    replies: list[str] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)

    @property
    def temperature(self) -> float:
        return TEMPERATURES.get(self.question.category, _OTHER)

    def row(self, reasoning_end: str | None) -> dict[str, object]:
        """A row of storage.schemas.DIALOGUES, with the final answers of reasoning replies."""
        question = self.question
        return {
            "question_id": question.question_id,
            "category": question.category,
            "turns": question.turns,
            "references": question.references,
            "replies": [split_reasoning(reply, reasoning_end)[1] for reply in self.replies],
            "finish_reasons": self.finish_reasons,
        }


class _Dialogues:
    def __init__(self, spec: DialogueSpec, engine: Engine, progress: Progress) -> None:
        self.spec, self.engine, self.progress = spec, engine, progress
        settings = spec.settings
        self.questions = read_questions(spec.questions.path, spec.references.path if spec.references else None)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(
            spec.policy.path, trust_remote_code=settings.trust_remote_code
        )
        self.end_tokens = frozenset(end_tokens(spec.policy.path, trust_remote_code=settings.trust_remote_code))
        check_turn_end(self.tokenizer, stop=())
        self.context = settings.engine.max_model_len or context_length(
            spec.policy.path, trust_remote_code=settings.trust_remote_code
        )

    def run(self) -> Outcome:
        self.engine.load(self.spec.policy.path)
        dialogues = [_Dialogue(question) for question in self.questions]
        for turn in range(TURNS):
            for temperature in sorted({dialogue.temperature for dialogue in dialogues}):
                self._answer([one for one in dialogues if one.temperature == temperature], turn, temperature)
            self.progress((turn + 1) * len(dialogues), TURNS * len(dialogues), "answers")
        path, ending = self.spec.folder / FILE, self.spec.settings.reasoning_end
        write_parquet(path, table([dialogue.row(ending) for dialogue in dialogues], DIALOGUES))
        cut = sum(reason == "length" for dialogue in dialogues for reason in dialogue.finish_reasons)
        return Outcome(paths=[path], rows={"questions": len(dialogues)}, summary={"cut": cut})

    def _answer(self, dialogues: list[_Dialogue], turn: int, temperature: float) -> None:
        """Append the answers to one turn. Questions that leave equal room for an answer make one batch."""
        batches: dict[int, list[tuple[_Dialogue, Request]]] = {}
        for dialogue in dialogues:
            name = dialogue.question.question_id
            try:
                ids = encode_chat(self.tokenizer, conversation(dialogue.question.turns, dialogue.replies, turn))
            except RefusedConversation as refused:
                raise refused.at(f"{self.spec.questions.path}: question {name}") from None
            room = min(self.spec.settings.max_tokens, self.context - len(ids))
            if room < 1 and turn == 0:
                raise UserError(
                    f"question {name} has {len(ids)} tokens, but the policy's context is {self.context}",
                    where=str(self.spec.questions.path),
                    remedy="raise engine.max_model_len if the policy allows more, or leave the question out",
                )
            seed = request_seed(self.spec.seed, self.spec.round, f"{name}/{turn}")
            batches.setdefault(max(room, 0), []).append((dialogue, Request(ids, seed)))
        for room, batch in sorted(batches.items()):
            if not room:  # the first answer fills the context: there is no room for a second one
                for dialogue, _ in batch:
                    dialogue.replies.append("")
                    dialogue.finish_reasons.append("length")
                continue
            sampling = SamplingSettings(responses=1, temperature=temperature, max_tokens=room)
            drawn = self.engine.sample([request for _, request in batch], sampling)
            for (dialogue, _), (sample,) in zip(batch, drawn, strict=True):
                dialogue.replies.append(reply_text(self.tokenizer, sample.token_ids, self.end_tokens))
                dialogue.finish_reasons.append(sample.finish_reason)
