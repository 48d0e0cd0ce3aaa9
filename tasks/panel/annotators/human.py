"""Settings of kind `human`: people vote, and the round waits for them."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from storage.errors import UserError
from tasks.panel.annotators.protocol import Annotator
from tasks.panel.annotators.settings import AnnotatorBase


class HumanSettings(AnnotatorBase):
    """People who vote on a local page or in a file."""

    #: What the page offers beside the vote. It is kept with the vote, and decides nothing.
    operational: ClassVar[frozenset[str]] = frozenset({"strength", "second"})

    kind: Literal["human"] = "human"
    votes: int = Field(1, ge=1)  # people who must answer a comparison; a skip counts as an answer
    share: float = Field(1.0, gt=0, le=1)  # share of the comparisons that must be complete before the round goes on
    sample: int | None = Field(None, ge=1)  # comparisons that people see, spread over prompts; None = all
    title: str = "Which response is better?"
    instructions: str = ""  # shown above the first comparison; plain text
    strength: bool = False  # the page offers to say whether the chosen response is slightly or clearly better
    second: str = ""  # a second question about the two responses, such as "Which one is more polite?"; "" = none
    checks: int = Field(0, ge=0)  # attention checks among the comparisons: one of the two replies to another prompt
    # Share of the checks that a person must pass; the votes of others do not count. None: checks are only reported.
    least_passed: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _checks_can_be_passed(self) -> Self:
        if self.least_passed is not None and not self.checks:
            raise ValueError("least_passed needs attention checks; set checks to their number, such as 10")
        return self

    def open(self, name: str, *, seed: int) -> Annotator:
        """Always raises UserError: the label stage asks people itself, by exporting a batch and collecting votes."""
        raise UserError(
            f"{name} are people, who cannot vote here",
            where=name,
            remedy="put them on the panel: the label stage waits for people's votes",
        )

    def unfit_to_judge(self) -> str | None:
        return "is a group of people, who vote on the panel only"
