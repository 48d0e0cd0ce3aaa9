"""Types of the flow's parameters: the UI's form shows them, and the server validates them when a run is created."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from conf.compose import group_options
from conf.schema import RunConfig
from flows.served import FORBIDDEN

_KEYS = "|".join(["run", "recipe", *RunConfig.model_fields])


def refusing(patterns: Sequence[str]) -> str:
    """The beginning of a regular expression for texts in which none of `patterns` is found."""
    return "^" + "".join(rf"(?![\s\S]*{pattern})" for pattern in patterns)


Preset = Annotated[str, Field(json_schema_extra={"enum": list(group_options("run"))})]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Rounds = Annotated[int, Field(ge=1, le=100)]
Seed = Annotated[int, Field(ge=0)]
Policy = Annotated[str, Field(min_length=1, description="folder, or id on the Hugging Face hub")]
Data = Annotated[str, Field(min_length=1, description="file, folder, or id on the Hugging Face hub")]
Objective = Annotated[str, Field(json_schema_extra={"enum": list(group_options("objective"))})]
Gate = Annotated[str, Field(json_schema_extra={"enum": list(group_options("gate"))})]
#: An override as on the command line: a configuration key (+key adds, ~key removes) and its value, or the folders of
#: the user's own YAML files. The schema, which the server checks, also refuses what gives code or secrets.
_OVERRIDE = rf"(~({_KEYS})|\+{{0,2}}({_KEYS})([.@][^=]+)?=|hydra\.searchpath=)"
Override = Annotated[
    str, Field(pattern=f"^{_OVERRIDE}", json_schema_extra={"pattern": f"{refusing(FORBIDDEN)}{_OVERRIDE}"})
]


def as_words(overrides: list[str], **fields: Any) -> list[str]:
    """Command-line words for the fields of a form that are set, followed by `overrides`, which take precedence."""
    overridden = {word.partition("=")[0] for word in overrides}
    set_fields = {key: value for key, value in fields.items() if value is not None and key not in overridden}
    return [f"{key}={value}" for key, value in set_fields.items()] + overrides
