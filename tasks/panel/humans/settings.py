"""Settings of annotators of kind `human`."""

from typing import Literal

from pydantic import Field

from tasks.panel.annotators.settings import AnnotatorBase


class HumanSettings(AnnotatorBase):
    """People who vote on a local page, or in a file; the round waits for them."""

    kind: Literal["human"]
    votes: int = Field(1, ge=1)  # people that a comparison needs, to be complete; a skip is an answer too
    share: float = Field(1.0, gt=0, le=1)  # of the comparisons asked about; so many complete, and the round goes on
    sample: int | None = Field(None, ge=1)  # comparisons that people are asked about, spread over prompts; None = all
    title: str = "Which response is better?"
    instructions: str = ""  # shown above the first comparison; plain text
