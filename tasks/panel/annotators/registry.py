"""Annotator kinds: a module of this package, an entry point or the path of a user's own class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import SerializeAsAny

from storage.plugins import Family
from tasks.panel.annotators.protocol import Annotator
from tasks.panel.annotators.settings import POLICY_NAMES, AnnotatorBase, LoadsModel, ScoresWithModel
from tasks.panel.scorer_pool import OpenWorkers, ScorerPool
from tasks.panel.scorer_processes import ProcessWorkers

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
    settings: Mapping[str, AnnotatorBase],
    seed: int,
    policies: Mapping[str, Path] | None = None,
    *,
    trust_remote_code: bool = False,
    open_workers: OpenWorkers = ProcessWorkers,
) -> list[Annotator]:
    """Open the annotators of `settings`, in its order.

    `seed` is for annotators that draw at random; `policies` gives the folders of policy, previous and initial, whose
    Python code may run if `trust_remote_code`; `open_workers` is for annotators with several workers. Raises
    UserError for an annotator that cannot be opened: no such function, no API key, no such model.
    """
    annotators = []
    for name, one in settings.items():
        asks_own = isinstance(one, LoadsModel) and bool(set(one.files()) & set(POLICY_NAMES))
        trusting = type(one)(**(dict(one) | {"trust_remote_code": True})) if asks_own and trust_remote_code else one
        annotators.append(_open(name, trusting.with_policies(name, policies or {}), seed, open_workers))
    return annotators


def _open(name: str, settings: AnnotatorBase, seed: int, open_workers: OpenWorkers) -> Annotator:
    if isinstance(settings, ScoresWithModel) and settings.workers > 1:
        return ScorerPool(name, settings, seed=seed, open_workers=open_workers)
    return settings.open(name, seed=seed)
