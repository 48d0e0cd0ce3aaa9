"""Which objectives there are: ours, one file each in this folder, and those of users.

A user's own objective is a class like ours, in her own package. It is chosen by its path (package.module:Class), or by
the name of its entry point in the group `irepo.objectives`.
"""

from typing import Annotated

from pydantic import SerializeAsAny

from storage.plugins import Family
from tasks.training.objectives.base import Objective

OBJECTIVES = Family(
    noun="objective",
    base=Objective,
    field="name",
    package="tasks.training.objectives",
    group="irepo.objectives",
)

#: A field with any objective: read from a mapping by its `name`, written with all settings of its class.
AnyObjective = Annotated[SerializeAsAny[Objective], OBJECTIVES]
