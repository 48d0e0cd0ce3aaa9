"""Settings of MT-Bench in a run's configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.stage import KeyedBy
from tasks.panel.chat.settings import ChatSettings

if TYPE_CHECKING:
    from tasks.evaluation.mt_bench.grading import Grader


class GraderSettings(ChatSettings):
    """The judge that grades: greedy, with room for an explanation."""

    max_tokens: int = Field(2048, ge=1)
    #: FastChat's judge_prompts.jsonl, for the published prompts; None = the project's own.
    prompts: Annotated[Path | None, KeyedBy("judge_files")] = None

    def open(self, name: str, *, seed: int) -> "Grader":
        from tasks.evaluation.mt_bench.grading import Grader

        return Grader(self)

    def files(self) -> list[str]:
        return [*super().files(), *([] if self.prompts is None else [str(self.prompts)])]


class MtBenchSettings(BaseModel):
    """Questions of two turns, graded by one judge; without `questions`, MT-Bench is not run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    questions: Path | None = None  # JSONL: question_id, category, turns [2]
    references: Path | None = None  # JSONL: question_id, choices[0].turns
    max_tokens: int = Field(1024, ge=1)  # of an answer
    judge: GraderSettings | None = None  # must not sit on the panel

    @model_validator(mode="after")
    def _has_a_judge(self) -> Self:
        if self.questions is not None and self.judge is None:
            raise ValueError("there is no judge to grade the answers; set judge.model, or use mt_bench=judge")
        return self
