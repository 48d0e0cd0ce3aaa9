"""Settings of kind `human`: people vote, and the round waits for them."""

from typing import Literal

from pydantic import Field

from storage.errors import UserError
from tasks.panel.annotators.protocol import Annotator
from tasks.panel.annotators.settings import AnnotatorBase


class HumanSettings(AnnotatorBase):
    """People who vote on a local page or in a file."""

    kind: Literal["human"] = "human"
    votes: int = Field(1, ge=1)  # people who must answer a comparison; a skip counts as an answer
    share: float = Field(1.0, gt=0, le=1)  # share of the comparisons that must be complete before the round goes on
    sample: int | None = Field(None, ge=1)  # comparisons that people see, spread over prompts; None = all
    title: str = "Which response is better?"
    instructions: str = ""  # shown above the first comparison; plain text

    def open(self, name: str, *, seed: int) -> Annotator:
        """Always raises UserError: the label stage asks people itself, by exporting a batch and collecting votes."""
        raise UserError(
            f"{name} are people, who cannot vote here",
            where=name,
            remedy="put them on the panel: the label stage waits for people's votes",
        )

    def unfit_to_judge(self) -> str | None:
        return "is a group of people, who vote on the panel only"
