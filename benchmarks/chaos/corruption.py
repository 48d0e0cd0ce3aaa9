"""Flip bits and cut files: is every damage detected before the bytes are used?

A trial changes one file of a finished run or of an unfinished stage, asks what a run would ask, and puts the file back.

detected: the reader refuses the file (`BrokenManifest`) or makes the part again (`has_part` is false).
harmless: the reader takes it, and what it reads is what it read before.
undetected: anything else; also an exception that no reader expects.
"""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from storage.manifest import MANIFEST, BrokenManifest, read_manifest
from storage.stage import has_part, load_spec
from tasks.generation.settings import GenerateSpec
from tasks.training.checkpoints import Checkpoint
from tasks.training.settings import CHECKPOINTS, TrainSpec

#: Returns what a reader would use of the file; None when it refuses the file.
Reader = Callable[[], Any]


@dataclass
class Target:
    """A file, its kind, and the reader that must detect its damage."""

    path: Path
    kind: str
    read: Reader


@dataclass
class Harm:
    """Trials by (kind of file, damage, outcome); `undetected` names every damage that was not detected."""

    trials: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    undetected: list[str] = field(default_factory=list)

    def count(self, outcome: str) -> int:
        return sum(number for (_, _, what), number in self.trials.items() if what == outcome)


def finished_files(run: Path) -> list[Target]:
    """Manifests, Parquet files and safetensors of a finished run, each with its stage's manifest as the reader."""
    targets = []
    for manifest in sorted(run.rglob(MANIFEST)):
        folder = manifest.parent
        targets.append(Target(manifest, "manifest", partial(_whole, folder)))
        for entry in read_manifest(folder).files:
            path = folder / entry.path
            if path.suffix in (".parquet", ".safetensors"):
                targets.append(Target(path, path.suffix[1:], partial(_whole, folder)))
    return targets


def parts(stage: Path) -> list[Target]:
    """Shards and sidecars of a copy of a generate stage without its manifest: an unfinished stage."""
    (stage / MANIFEST).unlink()
    spec = GenerateSpec(**{**dict(load_spec(stage / "spec.yaml", GenerateSpec)), "folder": stage})
    targets = []
    for shard in sorted(stage.glob("responses-*.parquet")):
        sidecar = shard.with_name(f".{shard.name}.part.json")
        read = partial(_part, spec, shard)
        targets += [Target(shard, "part", read), Target(sidecar, "sidecar", read)]
    return targets


def checkpoint_files(stage: Path) -> list[Target]:
    """Files of the checkpoints of an unfinished train stage."""
    key = load_spec(stage / "spec.yaml", TrainSpec).key()
    return [
        Target(path, "checkpoint", partial(_checkpoint, path.parent, key))
        for path in sorted((stage / CHECKPOINTS).glob("step-*/*"))
    ]


def _whole(folder: Path) -> Any:
    try:
        return read_manifest(folder)
    except BrokenManifest:
        return None


def _part(spec: GenerateSpec, shard: Path) -> bytes | None:
    """A part that counts as complete must have exactly the bytes that were published."""
    return shard.read_bytes() if has_part(spec, shard) else None


def _checkpoint(folder: Path, key: str) -> Any:
    try:
        return Checkpoint.read(folder, key), sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    except BrokenManifest:
        return None


def corrupt(targets: list[Target], trials: int, *, seed: int) -> Harm:
    """`trials` random damages: a kind of file, a file of that kind, and a flipped bit or a cut, drawn from `seed`."""
    draw = random.Random(seed)
    kinds: dict[str, list[Target]] = {}
    for target in targets:
        kinds.setdefault(target.kind, []).append(target)
        if target.read() is None:
            raise RuntimeError(f"{target.path} is refused before any harm was done to it")
    harm = Harm()
    for _ in range(trials):
        target = draw.choice(kinds[draw.choice(sorted(kinds))])
        action = draw.choice(["bit flip", "truncation"])
        outcome, where = _try(target, action, draw)
        harm.trials[target.kind, action, outcome] += 1
        if outcome == "undetected":
            harm.undetected.append(f"{target.path.name}: {action} at {where}")
    return harm


def _try(target: Target, action: str, draw: random.Random) -> tuple[str, str]:
    whole, before = target.path.read_bytes(), target.read()
    place = draw.randrange(len(whole))
    if action == "bit flip":
        bit = draw.randrange(8)
        harmed, where = bytearray(whole), f"byte {place}, bit {bit}"
        harmed[place] ^= 1 << bit
        target.path.write_bytes(harmed)
    else:
        where = f"byte {place}"
        target.path.write_bytes(whole[:place])
    try:
        read = target.read()
    except Exception as error:  # an error that no caller handles does not count as detection
        return "undetected", f"{where}: {type(error).__name__}: {error}"
    finally:
        target.path.write_bytes(whole)
    if read is None:
        return "detected", where
    # Manifests and sidecars are compared by content, because white space in them does not matter.
    return ("harmless" if read == before else "undetected"), where


def corrupt_run(run: Path, checkpointed: Path | None, scratch: Path, trials: int, *, seed: int) -> Harm:
    """All targets of a copy of the finished `run`, of its first generate stage as if unfinished, and of checkpoints."""
    copy = scratch / "run"
    shutil.copytree(run, copy, symlinks=True)
    stage = scratch / "generate"
    shutil.copytree(run / "round-01" / "generate", stage)
    targets = finished_files(copy) + parts(stage)
    if checkpointed is not None:
        targets += checkpoint_files(checkpointed)
    return corrupt(targets, trials, seed=seed)
