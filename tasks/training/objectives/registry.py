"""Which objectives there are: ours, one file each in this folder, and those of users.

A user's own objective is a class like ours, in her own package. It is chosen by its path (package.module:Class), or by
the name of its entry point in the group `irepo.objectives`.
"""

import inspect
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import SerializeAsAny

from storage.files import sha256_file
from storage.plugins import Family
from tasks.training.objectives.base import Objective

OBJECTIVES = Family(
    noun="objective",
    base=Objective,  # type: ignore[type-abstract]  # classes below it are what is found
    field="name",
    package="tasks.training.objectives",
    group="irepo.objectives",
)

#: A field with any objective: read from a mapping by its `name`, written with all settings of its class.
AnyObjective = Annotated[SerializeAsAny[Objective], OBJECTIVES]


@cache
def own_source(objective: type[Objective]) -> str | None:
    """Digest of the file that defines a user's objective; None for ours, whose changes the stage's version tells."""
    if objective in OBJECTIVES.ours().values():
        return None
    return sha256_file(Path(inspect.getfile(objective)))
