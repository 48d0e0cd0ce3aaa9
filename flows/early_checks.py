"""What is checked right after a configuration is read, in a second: no model, no Prefect, no server.

Every annotator is built as far as its files allow (expressions compile, functions import, reward models have one
label), and devices are those of this machine.
"""

from conf.schema import RunConfig
from storage.errors import UserError
from tasks.panel.annotators.settings import AnnotatorBase, LoadsModel, ScoresWithModel
from tasks.panel.scorer_pool import check_devices


def annotators_by_place(config: RunConfig) -> dict[str, AnnotatorBase]:
    """All annotators of a run, by their key in the configuration."""
    return {
        **{f"panel.annotators.{name}": each for name, each in config.panel.annotators.items()},
        **{f"evaluation.judges.{name}": each for name, each in config.evaluation.judges.items()},
        **{f"evaluation.rates.{name}": each for name, each in config.evaluation.rates.items()},
    }


def check_early(config: RunConfig) -> None:
    """Raises UserError for an annotator that cannot be opened, and for a device that this machine does not have."""
    if config.dry_run == "plan":
        return
    for place, settings in annotators_by_place(config).items():
        made_later = config.policy.warmup is not None and isinstance(settings, LoadsModel)
        if not made_later:
            _check(place, settings)
    _check_devices(config)


def _check(place: str, settings: AnnotatorBase) -> None:
    """As `settings.check`, with the annotator's key in the error."""
    name = place.rpartition(".")[2]
    try:
        settings.check(name)
    except UserError as error:
        where = error.where.replace(f"annotators.{name}", place, 1)
        raise UserError(
            error.what, where=where if place in where else f"{place}: {where}", remedy=error.remedy
        ) from None


def _check_devices(config: RunConfig) -> None:
    placed = config.placement.pools()
    places: dict[str, str] = {} if "train" in placed else {"training.device": config.training.device}
    for place, settings in annotators_by_place(config).items():
        if ("label" if place.startswith("panel.") else "evaluate") in placed:
            continue
        if isinstance(settings, ScoresWithModel) and settings.workers > 1:
            check_devices(place, settings)
        device = getattr(settings, "device", None)
        if isinstance(device, str):
            places[f"{place}.device"] = device
    asked = {place: device for place, device in places.items() if device.startswith("cuda")}
    if not asked:
        return
    import torch

    if not torch.cuda.is_available():
        place, device = next(iter(asked.items()))
        raise UserError(
            "this machine has no GPU that torch can use",
            where=f"{place}={device}",
            remedy=f"set {place}=cpu or auto, or install the GPU build and its driver",
        )
