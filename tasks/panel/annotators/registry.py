"""Annotator kinds: a module of this package, an entry point or the path of a user's own class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import SerializeAsAny

from storage.plugins import Family
from tasks.panel.annotators.protocol import Annotator
from tasks.panel.annotators.settings import AnnotatorBase

ANNOTATORS: Family[AnnotatorBase] = Family(
    noun="annotator",
    base=AnnotatorBase,  # type: ignore[type-abstract]
    field="kind",
    package="tasks.panel.annotators",
    group="irepo.annotators",
)

#: An annotator's settings in a configuration: read as the class of its `kind`, written with all fields of that class.
AnnotatorSettings = Annotated[SerializeAsAny[AnnotatorBase], ANNOTATORS]


def open_annotators(
    settings: Mapping[str, AnnotatorBase], seed: int, policies: Mapping[str, Path] | None = None
) -> list[Annotator]:
    """Open the annotators of `settings`, in its order.

    `seed` is for annotators that draw at random; `policies` gives the folders of policy, previous and initial. Raises
    UserError for an annotator that cannot be opened: no such function, no API key, no such model.
    """
    return [one.with_policies(name, policies or {}).open(name, seed=seed) for name, one in settings.items()]
