"""The base of every annotator's settings. Each kind's own settings are in its file, beside the annotator."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.errors import UserError
from storage.stage import Unkeyed
from tasks.modeling.chat_template import TemplateSettings, check_template
from tasks.panel.annotators.protocol import Annotator

#: Names of the run's own policies, where an annotator takes the folder of a model. Write ./policy for a folder that
#: has one of these names.
POLICY_NAMES = ("policy", "previous", "initial")

#: The difference of two scores that counts as one logit of a vote. auto: estimated from the other annotators' votes.
Temperature = Annotated[float, Field(gt=0)] | Literal["auto"]

_OURS = "tasks."  # modules of the project; any other module is a user's own


class AnnotatorBase(BaseModel, ABC):
    """Settings of one annotator. A kind is a subclass with the method `open` and its name as default of `kind`.

    The project's kinds declare `kind: Literal["verifier"] = "verifier"`. A user's class declares `kind: str = "mine"`,
    because a configuration may also name the class by its path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Fields that affect speed, address or price, but no vote. They are not part of a stage's key.
    operational: ClassVar[frozenset[str]] = frozenset()
    #: Whether the annotator only makes sense for drafts, which come in pairs of a better and a worse response.
    needs_drafts: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_workers(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "workers" in value and "workers" not in cls.model_fields:
            raise ValueError("an annotator of this kind loads no model to score with; remove its setting workers")
        return value

    @abstractmethod
    def open(self, name: str, *, seed: int) -> Annotator:
        """Open the annotator called `name`; `seed` is for annotators that draw votes at random.

        Heavy imports (torch, vllm, httpx) belong inside this method, so that reading a configuration stays fast.
        Raises UserError when the annotator cannot be opened: no such function, no API key, no such model.
        """

    def check(self, name: str) -> None:
        """Check what can be checked without loading a model. Raises UserError. Called before a run starts."""

    def files(self) -> list[str]:
        """Files, model folders and functions ("package.module:name") that decide the votes."""
        return []

    def models(self) -> list[str]:
        """Models that decide the votes: folders, hub ids, or the names that an endpoint serves them by."""
        return []

    def key_variables(self) -> list[str]:
        """Environment variables that must hold an API key."""
        return []

    def compares_with(self) -> Literal["answer", "reference"] | None:
        """The field of a prompt without which it abstains on every response; None where it needs none."""
        return None

    @property
    def unpriced(self) -> bool:
        """Whether answers cost money but no price is set."""
        return False

    def with_policies(self, name: str, policies: Mapping[str, Path]) -> Self:
        """These settings with POLICY_NAMES replaced by folders. Raises UserError for a policy that does not exist."""
        return self

    def only_ties(self, policies: Mapping[str, str]) -> bool:
        """Whether every vote is a tie when POLICY_NAMES stand for the models in `policies`."""
        return False

    def unfit_to_judge(self) -> str | None:
        """Why this annotator cannot be one of the evaluation's judges or rates, or None when it can."""
        names = [file for file in self.files() if file in POLICY_NAMES]
        return f"reads the run's own {', '.join(names)}, and only the panel can" if names else None

    @final
    def reads(self) -> list[str]:
        """Everything besides these settings that decides the votes: `files`, and the module of a user's own class."""
        cls = type(self)
        own = [] if cls.__module__.startswith(_OURS) else [f"{cls.__module__}:{cls.__qualname__}"]
        return [*self.files(), *own]


class LoadsModel(TemplateSettings):
    """Settings of an annotator that loads a model from a folder and renders its chat template."""

    #: Run Python code that the folder brings. For the run's own policies policy.trust_remote_code holds too.
    trust_remote_code: Annotated[bool, Unkeyed("whether the model's code may run, not what it does")] = False

    def check_template(self, name: str, folder: Path) -> None:
        """Raises UserError for arguments that the chat template in `folder` does not read."""
        check_template(folder, self.template_values, where=f"annotators.{name}.template_arguments")


class Scorer(AnnotatorBase):
    """Settings of an annotator that scores single responses."""

    tie_margin: float = Field(0.0, ge=0)  # scores that differ by at most this are a tie

    def vote_temperature(self) -> Temperature | None:
        """The temperature of its soft votes; None when a vote is all or nothing."""
        return None


class SoftScorer(Scorer):
    """Settings of an annotator whose scores are graded: its vote carries sigmoid(score difference / temperature)."""

    soft: bool = True  # false: the higher score wins the whole vote
    temperature: Temperature = "auto"

    def vote_temperature(self) -> Temperature | None:
        return self.temperature if self.soft else None


class ScoresWithModel(SoftScorer, LoadsModel):
    """Settings of an annotator that loads a model and scores single responses with it."""

    #: Copies of the model that share the batches, each in a process and on a GPU of its own.
    workers: Annotated[int, Unkeyed("how many score, not what they score"), Field(ge=1)] = 1


def same_model(model: str) -> str:
    """`model` in a form that is equal for two spellings of one folder: absolute, no symbolic links, no final slash."""
    return os.path.realpath(model)


def policy_folder(model: str, policies: Mapping[str, Path], *, where: str) -> str:
    """The folder of `model` if it is one of POLICY_NAMES, else `model` itself."""
    if model not in POLICY_NAMES:
        return model
    if model not in policies:
        raise UserError(
            f"there is no policy called {model!r} here",
            where=where,
            remedy="give a folder (./policy if it has that name), or use this annotator inside a run",
        )
    return str(policies[model])
