"""Settings of where a run is kept besides its folder, and of what may be removed to free disk."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

_LAST = re.compile(r"last:([1-9][0-9]*)")


def _known_policies(value: str) -> str:
    if value not in ("all", "promoted") and not _LAST.fullmatch(value):
        raise ValueError(f"{value!r} is not one of all, promoted, last:N (such as last:3)")
    return value


def _without_a_key(address: str | None) -> str | None:
    """The address, if it has no user and password. Raises ValueError, which does not repeat it."""
    user, at, _ = (address or "").partition("://")[2].partition("/")[0].rpartition("@")
    if at and (":" in user or not str(address).startswith("abfs")):  # abfss://container@account
        raise ValueError(
            "the address contains a user or a key, and copies of the configuration keep it; give keys as the store's "
            "own variables, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return address


class StorageSettings(BaseModel):
    """Nothing of it is part of a stage's key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # A folder of an object store for this run alone: s3://bucket/prefix, gs://..., abfss://... Each stage is pushed
    # there when it is published. None: the run is in its folder only.
    mirror: Annotated[str | None, AfterValidator(_without_a_key)] = None
    # Address of an S3 or GCS server of your own, such as http://127.0.0.1:9000.
    endpoint_override: Annotated[str | None, AfterValidator(_without_a_key)] = None
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
