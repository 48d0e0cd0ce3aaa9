"""The flow's parameters, typed: what the UI's form shows, and what the server refuses when a run is created."""

from typing import Annotated, Any

from pydantic import Field

from conf.compose import group_options
from conf.schema import RunConfig

_KEYS = "|".join(["run", "recipe", *RunConfig.model_fields])

Preset = Annotated[str, Field(json_schema_extra={"enum": list(group_options("run"))})]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Rounds = Annotated[int, Field(ge=1, le=100)]
Seed = Annotated[int, Field(ge=0)]
Gate = Annotated[str, Field(json_schema_extra={"enum": list(group_options("gate"))})]
#: A word of the command line: a key of the configuration (+key adds, ~key removes) and its value.
Override = Annotated[str, Field(pattern=rf"^(~({_KEYS})|\+{{0,2}}({_KEYS})([.@][^=]+)?=)")]


def as_words(overrides: list[str], **fields: Any) -> list[str]:
    """The words of the command line for a form's fields: those that are set, then `overrides`, which win."""
    said = {word.partition("=")[0] for word in overrides}
    return [f"{key}={value}" for key, value in fields.items() if value is not None and key not in said] + overrides
