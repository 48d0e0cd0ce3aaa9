"""What is checked right after a configuration is read, in a second: no model, no Prefect, no server.

Every annotator is built as far as its files allow (expressions compile, functions import, reward models have one
label), and devices are those of this machine.
"""

from pathlib import Path

from conf.schema import RunConfig
from storage.errors import UserError
from tasks.panel.annotators.settings import AnnotatorBase, LoadsModel, ScoresWithModel
from tasks.panel.scorer_processes import check_devices, refuse_named_device

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".gz", ".zst")


def annotators_by_place(config: RunConfig) -> dict[str, AnnotatorBase]:
    """All annotators of a run, by their key in the configuration."""
    return {
        **{f"panel.annotators.{name}": each for name, each in config.panel.annotators.items()},
        **{f"evaluation.judges.{name}": each for name, each in config.evaluation.judges.items()},
        **{f"evaluation.rates.{name}": each for name, each in config.evaluation.rates.items()},
    }


def check_early(config: RunConfig) -> None:
    """Raises UserError for an annotator that cannot be opened, a device that this machine does not have, and a policy,
    prompts or pairs in a file or folder that is not there."""
    if config.dry_run == "plan":
        return
    for place, settings in annotators_by_place(config).items():
        made_later = config.policy.warmup is not None and isinstance(settings, LoadsModel)
        if not made_later:
            _check(place, settings)
    _check_devices(config)
    _check_paths(config)


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


def _check_paths(config: RunConfig) -> None:
    """Ids on the hub are looked up later; what the run makes itself need not be there."""
    if config.policy.warmup is not None:
        return
    if is_path(config.policy.path) and not Path(config.policy.path).is_dir():
        raise UserError(
            "there is no such folder",
            where=f"policy.path={config.policy.path}",
            remedy="give an existing folder, or the id of a model on the Hugging Face hub",
        )
    place, path = ("prompts.path", config.prompts.path) if config.data is None else ("data.path", config.data.path)
    if is_path(path) and not Path(path).exists():
        raise UserError(
            "there is no such file or folder",
            where=f"{place}={path}",
            remedy="give an existing file or folder, or the id of a data set on the Hugging Face hub",
        )


def is_path(text: str) -> bool:
    """Whether a text can only be a path: an id on the hub is `name` or `owner/name`."""
    return text.startswith(("/", ".", "~")) or text.count("/") > 1 or text.endswith(_SUFFIXES)


def _check_devices(config: RunConfig) -> None:
    placed = config.placement.pools()
    places: dict[str, str] = {} if "train" in placed else {"training.device": config.training.device}
    for place, settings in annotators_by_place(config).items():
        if ("label" if place.startswith("panel.") else "evaluate") in placed:
            continue
        if isinstance(settings, ScoresWithModel) and settings.workers > 1:
            if config.cluster.kind == "ray":  # its GPUs are counted when the workers start
                refuse_named_device(place, settings)
                continue
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
