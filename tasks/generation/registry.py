"""Which engines there are: ours, one module each in tasks/generation/engines, and those of users.

A user's own engine is a class like ours, in her own package. It is chosen by its path (package.module:Class), or by the
name of its entry point in the group `irepo.engines`.
"""

from typing import Annotated

from pydantic import SerializeAsAny

from storage.plugins import Family
from tasks.generation.engines import EngineSettings

ENGINES = Family(
    noun="engine",
    base=EngineSettings,  # type: ignore[type-abstract]  # its subclasses are used
    field="kind",
    package="tasks.generation.engines",
    group="irepo.engines",
)

#: A field with the settings of any engine: read, validated and dumped as the class of its `kind`.
AnyEngine = Annotated[SerializeAsAny[EngineSettings], ENGINES]
