"""Which gate rules there are: ours, one file each in this folder, and those of users.

A user's own rule is a class like ours, in her own package. It is chosen by its path (`kind: package.module:Class`), or
by the name of its entry point in the group `irepo.gate_rules`.
"""

from typing import Annotated

from pydantic import SerializeAsAny

from storage.plugins import Family
from tasks.evaluation.gate_rules.base import GateRule

GATE_RULES = Family(
    noun="gate rule",
    base=GateRule,  # type: ignore[type-abstract]  # classes below it are what is found
    field="kind",
    package="tasks.evaluation.gate_rules",
    group="irepo.gate_rules",
)

#: A field with any rule: read from a mapping by its `kind`, written with all settings of its class.
AnyGateRule = Annotated[SerializeAsAny[GateRule], GATE_RULES]
