"""What the settings of every annotator have in common. Each kind's own stand in its file, beside the annotator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import UserError

#: Words that stand for policies of the run where an annotator names a model of this machine. A folder that is called
#: so is written ./policy.
POLICY_NAMES = ("policy", "previous", "initial")


class AnnotatorBase(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def reads(self) -> list[str]:
        """What decides its votes besides these settings: files, model folders or ids, "package.module:name"."""
        return []

    def with_policies(self, name: str, policies: Mapping[str, Path]) -> Self:
        """These settings with words of POLICY_NAMES replaced by folders. Raises UserError for one that is unknown."""
        return self


class Scorer(AnnotatorBase):
    tie_margin: float = Field(0.0, ge=0)  # scores closer than this (or equal) are a tie


def policy_folder(model: str, policies: Mapping[str, Path], *, where: str) -> str:
    """The folder of `model` when it is one of POLICY_NAMES, else `model` itself."""
    if model not in POLICY_NAMES:
        return model
    if model not in policies:
        raise UserError(
            f"there is no policy called {model!r} here",
            where=where,
            remedy="name a folder (./policy for one that is called so), or use this annotator inside a run",
        )
    return str(policies[model])
