"""Types of the flow's parameters: the UI's form shows them, and the server validates them when a run is created."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.config import JsonDict

from conf.describe import groups
from conf.schema import RunConfig
from flows.served import FORBIDDEN

_KEYS = "|".join(["run", "recipe", *RunConfig.model_fields])


def refusing(patterns: Sequence[str]) -> str:
    """The beginning of a regular expression for texts in which none of `patterns` is found."""
    return "^" + "".join(rf"(?![\s\S]*{pattern})" for pattern in patterns)


def choices(group: str, about: str) -> JsonDict:
    """Schema of a field that chooses a file of a group of conf/: its options, and what each is."""
    options = next(each.options for each in groups() if each.name == group)
    meanings = "; ".join(f"{name}: {says}" if says else name for name, says in options.items())
    return {"enum": [*sorted(options)], "description": f"{about} {meanings}."}


def named(about: str) -> JsonDict:
    """Schema of a field that names a file, a folder or an id: no code and no secret."""
    return {"description": about, "pattern": refusing(FORBIDDEN)}


_PRESET = "A preset to start from; without one, give policy and prompts. What is set below takes precedence."
Preset = Annotated[str, Field(json_schema_extra=choices("run", _PRESET))]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Rounds = Annotated[int, Field(ge=1, le=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
_POLICY = "The policy to start from: a folder, or an id on the Hugging Face hub."
Policy = Annotated[str, Field(min_length=1, json_schema_extra=named(_POLICY))]
_PROMPTS = "A file or folder of JSONL, JSON or Parquet, or a data set on the hub."
Prompts = Annotated[str, Field(min_length=1, json_schema_extra=named(_PROMPTS))]
_DATA = "The preference set: a file, a folder, or a data set on the hub."
Data = Annotated[str, Field(min_length=1, json_schema_extra=named(_DATA))]
Panel = Annotated[str, Field(json_schema_extra=choices("panel", "Who votes on the responses."))]
Evaluation = Annotated[str, Field(json_schema_extra=choices("evaluation", "Who decides whether a round helped."))]
Objective = Annotated[str, Field(json_schema_extra=choices("objective", "What training minimizes."))]
Recipe = Annotated[str, Field(json_schema_extra=choices("recipe", "How data are made and selected."))]
Training = Annotated[str, Field(json_schema_extra=choices("training", "How the policy is trained."))]
Engine = Annotated[str, Field(json_schema_extra=choices("engine", "What samples the responses."))]
_GATE = "Who decides after every round whether its policy is promoted."
Gate = Annotated[str, Field(json_schema_extra=choices("gate", _GATE))]
#: An override as on the command line: a configuration key (+key adds, ~key removes) and its value, or the folders of
#: the user's own YAML files. The schema, which the server checks, also refuses what gives code or secrets.
_OVERRIDE = rf"(~({_KEYS})|\+{{0,2}}({_KEYS})([.@][^=]+)?=|hydra\.searchpath=)"
Override = Annotated[
    str, Field(pattern=f"^{_OVERRIDE}", json_schema_extra={"pattern": f"{refusing(FORBIDDEN)}{_OVERRIDE}"})
]


def as_words(overrides: list[str], **fields: object) -> list[str]:
    """Command-line words for the fields of a form that are set, followed by `overrides`, which take precedence."""
    overridden = {word.partition("=")[0] for word in overrides}
    set_fields = {key: value for key, value in fields.items() if value is not None and key not in overridden}
    return [f"{key}={value}" for key, value in set_fields.items()] + overrides
