"""A judge must be held out: it must not share a model with the panel whose preferences train the policy."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.panel.annotators.settings import AnnotatorBase, same_model


def refuse_judges_on_the_panel(
    panel: Mapping[str, AnnotatorBase],
    judges: Mapping[str, AnnotatorBase],
    grader: AnnotatorBase | None,
    policies: Mapping[str, Path],
) -> None:
    """Raises ValueError when one of `judges`, or MT-Bench's `grader`, has a model that also votes on the panel.

    Two spellings of one folder are the same model, and so are policy, previous and initial on the panel and the models
    that they stand for in round 1 (`policies`). For an implicit reward, policy and reference both count.
    """
    voters = {
        same_model(model): name
        for name, settings in panel.items()
        for model in settings.with_policies(name, policies).models()
    }
    judging = {f"evaluation.judges.{name}": settings for name, settings in judges.items()}
    if grader is not None:
        judging["mt_bench.judge"] = grader
    for where, settings in judging.items():
        for model in settings.models():
            if (voter := voters.get(same_model(model))) is not None:
                raise ValueError(
                    f"{where}: its model {model} also votes on the panel (panel.annotators.{voter}), but a judge must "
                    f"be held out; give the judge another model, or remove the annotator from the panel"
                )


def refuse_unfit_judges(annotators: Iterable[tuple[str, AnnotatorBase]]) -> None:
    """Raises ValueError for judges and rates that only work on the panel, such as people."""
    for name, settings in annotators:
        if (reason := settings.unfit_to_judge()) is not None:
            raise ValueError(f"evaluation: {name} {reason}")
