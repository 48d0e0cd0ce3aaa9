"""The policies of a run by the names that people give them: `runs/mine`, `runs/mine/round-02`, `initial`, a folder."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from storage.errors import UserError
from storage.files import parse_yaml
from storage.manifest import MANIFEST
from storage.retention import refuse_removed

CONFIG = "config.yaml"
_ROUND = re.compile(r"round-(\d{2,})")


@dataclass(frozen=True)
class Result:
    """A policy: what people call it, its folder, and the run and round that made it (None for other folders)."""

    name: str
    folder: Path
    run: Path | None = None
    round: int | None = None


def find_result(place: Path) -> Result:
    """The policy of a run (its last promoted one), of one of its rounds, or in a folder of its own.

    Raises UserError for a place that is none of these, with names that are close to it.
    """
    if (place / CONFIG).is_file():
        return _of_run(place)
    match = _ROUND.fullmatch(place.name)
    if match and (place.parent / CONFIG).is_file():
        return _of_round(place.parent, int(match[1]))
    if (place / "config.json").is_file():
        return Result(place.name, place)
    raise _unknown(place)


def named_policy(name: str, run: Path | None) -> Result:
    """`initial`, `round-01`, or what `find_result` takes. run: the run that the first two belong to."""
    if run is not None and name == "initial":
        config = parse_yaml((run / CONFIG).read_text(encoding="utf-8"))
        fixed = run / "policies" / "initial"
        folder = fixed if fixed.is_dir() else Path(config["policy"]["path"])
        if not (folder / "config.json").is_file():
            raise UserError(
                "the initial policy of the run is not in a folder here",
                where=f"{run / CONFIG}: policy.path={folder}",
                remedy="name the folder of another policy",
            )
        return Result("initial", folder, run, 0)
    if run is not None and _ROUND.fullmatch(name):
        return find_result(run / name)
    return find_result(Path(name))


def _of_run(run: Path) -> Result:
    link = run / "policy"
    if link.is_dir():
        folder = link.resolve()
        number = next((int(match[1]) for part in folder.parts if (match := _ROUND.fullmatch(part))), None)
        return Result(run.name if number is None else f"{run.name}, round {number}", folder, run, number)
    finished = sorted(path.name for path in run.glob("round-*") if _trained(path) is not None)
    if finished:
        raise UserError(
            "no round of the run is promoted yet",
            where=str(run),
            remedy=f"name a round: {run / finished[-1]}; or decide: python -m flows.gate {run} promote",
        )
    raise UserError(
        "no round of the run has trained a policy yet", where=str(run), remedy="wait until its first round is finished"
    )


def _of_round(run: Path, number: int) -> Result:
    folder = run / f"round-{number:02d}"
    policy = _trained(folder)
    if policy is None:
        raise UserError(
            f"round {number} has no finished policy", where=str(folder), remedy="wait until its training is finished"
        )
    refuse_removed([policy])
    return Result(f"{run.name}, round {number}", policy, run, number)


def _trained(folder: Path) -> Path | None:
    """The policy that a round ended with: that of its update, or of its training."""
    made = [folder / stage for stage in ("update", "train") if (folder / stage / MANIFEST).is_file()]
    return made[0] / "policy" if made else None


def _unknown(place: Path) -> UserError:
    beside = [path for path in place.parent.glob("*") if (path / CONFIG).is_file() or path.name.startswith("round-")]
    close = difflib.get_close_matches(place.name, [path.name for path in beside], n=1, cutoff=0.5)
    hint = f" (did you mean {place.parent / close[0]}?)" if close else ""
    return UserError(
        f"this is no run, no round and no policy{hint}",
        where=str(place),
        remedy="name a run folder (runs/mine), a round (runs/mine/round-01) or a policy's folder; "
        "python -m flows.runs lists runs",
    )
