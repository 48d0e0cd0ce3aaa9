"""Settings of where a run is kept besides its folder, and of what may be removed to free disk."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

_LAST = re.compile(r"last:([1-9][0-9]*)")


def _known_policies(value: str) -> str:
    if value not in ("all", "promoted") and not _LAST.fullmatch(value):
        raise ValueError(f"{value!r} is not one of all, promoted, last:N (such as last:3)")
    return value


class StorageSettings(BaseModel):
    """Nothing of it is part of a stage's key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A folder of an object store for this run alone: s3://bucket/prefix, gs://..., abfss://... Each stage is pushed
    # there when it is published. None: the run is in its folder only.
    mirror: str | None = None
    endpoint_override: str | None = None  # address of an S3 or GCS server of your own, such as http://127.0.0.1:9000
    # Which rounds keep their policies: all | promoted (the last promoted one) | last:N (the last N rounds and the last
    # promoted one). What the next round reads is always kept, and nothing is removed before the mirror has it.
    keep_policies: Annotated[str, AfterValidator(_known_policies)] = "all"

    @property
    def last_policies(self) -> int | None:
        """The number of last rounds that keep their policies; 0 for promoted, None for all."""
        found = _LAST.fullmatch(self.keep_policies)
        if found:
            return int(found[1])
        return None if self.keep_policies == "all" else 0
