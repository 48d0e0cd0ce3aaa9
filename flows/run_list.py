"""What the list of runs shows of each run, read from its files; and archives of runs."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from storage.errors import UserError
from storage.files import parse_yaml
from storage.layout import RunLayout
from storage.manifest import MANIFEST
from storage.owner import OWNER, is_owned
from tasks.evaluation.record import RoundRecord

ARCHIVE = "archive"
_ROUNDS = TypeAdapter(list[RoundRecord])


@dataclass(frozen=True)
class RunLine:
    """One run. win_rate, cost: "-" where none was measured, "?" where they cannot be read. bytes: of its files, links
    not followed."""

    name: str
    state: str  # running | waits for a decision | waits for votes | finished | stopped | rounds.json cannot be read
    rounds: str  # finished / wanted
    win_rate: str
    cost: str
    bytes: int
    changed: str  # date and time (UTC) of the latest stage


def run_lines(runs: Path, names: Sequence[str] | None = None) -> list[RunLine]:
    """The runs of a folder, the latest first. names: only these. A folder without config.yaml is no run."""
    folders = [path.parent for path in runs.glob("*/config.yaml")] if names is None else [runs / name for name in names]
    found = [(_latest(folder), folder) for folder in folders]
    return [_line(folder, latest) for latest, folder in sorted(found, key=lambda item: item[0], reverse=True)]


def _line(folder: Path, latest: float) -> RunLine:
    layout = RunLayout(folder)
    config = parse_yaml(layout.config.read_text(encoding="utf-8"))
    wanted = int(config.get("rounds", 0))
    finished = 0
    while (layout.stage(finished + 1, "evaluate") / MANIFEST).is_file():
        finished += 1
    records = _records(folder)
    return RunLine(
        name=folder.name,
        state=_state(folder, records, finished, wanted),
        rounds=f"{finished}/{wanted}",
        win_rate=_win_rate(records),
        cost=_cost(folder, finished),
        bytes=sum(path.lstat().st_size for path in _files(folder)),
        changed=datetime.fromtimestamp(latest, UTC).strftime("%Y-%m-%d %H:%M") if latest else "-",
    )


def _records(folder: Path) -> list[RoundRecord] | None:
    """None: rounds.json is damaged, or another version wrote it."""
    path = folder / "rounds.json"
    if not path.is_file():
        return []
    try:
        return _ROUNDS.validate_json(path.read_bytes())
    except ValidationError:
        return None


def _state(folder: Path, records: list[RoundRecord] | None, finished: int, wanted: int) -> str:
    if is_owned(folder):
        return "running"
    if records is None:
        return "rounds.json cannot be read"
    if (folder / "waiting.json").is_file():
        return "waits for votes"
    if records and records[-1].decision is None:
        return "waits for a decision"
    return "finished" if finished >= wanted or (records and records[-1].decision == "stop") else "stopped"


def _win_rate(records: list[RoundRecord] | None) -> str:
    """Of the latest round against the initial policy, by the first judge; "?" where it cannot be read."""
    if records is None:
        return "?"
    rates = records[-1].figures.win_rate.get("initial", {}) if records else {}
    if not rates:
        return "-"
    judge, rate = next(iter(rates.items()))
    return f"{rate.mean:.2f} ({judge})"


def _cost(folder: Path, finished: int) -> str:
    """What annotators and judges cost in all rounds, in the currency of their prices."""
    from tasks.reporting.report.files import read_run

    if not finished:
        return "-"
    try:
        spent = [entry.cost for round_ in read_run(folder).rounds for entry in round_.spent if entry.cost is not None]
    except (UserError, ValueError, KeyError, OSError):
        return "?"  # a file of the run is damaged: `storage.explain` says which
    return f"{sum(spent):.2f}" if spent else "-"


def _files(folder: Path) -> Iterator[Path]:
    """Files of a run, links included as links; each of several hard links to a file counts once."""
    seen: set[tuple[int, int]] = set()
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            continue
        status = path.lstat()
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield path


def _latest(folder: Path) -> float:
    """When the latest stage was published, in seconds since 1970; 0 without one."""
    return max((path.stat().st_mtime for path in folder.rglob(MANIFEST)), default=0.0)


def archive(folder: Path) -> Path:
    """Pack a run into archive/<name>.tar.gz beside it, and check the archive; the run's folder stays.

    Links are kept as links: what they point to outside the run is not packed. Raises UserError when there is such an
    archive already.
    """
    target = folder.parent / ARCHIVE / f"{folder.name}.tar.gz"
    if target.exists():
        raise UserError("there is an archive of this name", where=str(target), remedy="move or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    packed = sorted(path for path in folder.rglob("*") if path.name != OWNER)
    with tarfile.open(part, "w:gz", compresslevel=1) as out:
        out.add(folder, folder.name, recursive=False)
        for path in packed:
            out.add(path, f"{folder.name}/{path.relative_to(folder).as_posix()}", recursive=False)
    with tarfile.open(part) as made:  # read to its end: a full disk shows here
        members = {member.name: member.size for member in made}
    missing = [
        path
        for path in packed
        if path.is_file()
        and not path.is_symlink()
        and f"{folder.name}/{path.relative_to(folder).as_posix()}" not in members
    ]
    if missing:
        raise UserError(f"the archive lacks {missing[0]}", where=str(part), remedy="give the command again")
    part.rename(target)
    return target
