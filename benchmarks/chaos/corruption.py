"""Flip bits, cut, swap, link and plant files, forge manifests: is every damage detected before the bytes are used?

    python -m benchmarks.chaos.corruption runs/mine --damages 1000 --seed 0    # on a copy of a finished run

A trial changes one file of a finished run or of an unfinished stage, or adds one beside it, asks what a run would ask,
and puts everything back.

detected: the reader refuses it (`BrokenManifest`, `ForeignFiles`, another key) or makes the part again (`has_part`).
harmless: the reader takes it, and what it reads is what it read before.
undetected: anything else; also an exception that no reader expects.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from storage.files import canonical_json, digest
from storage.manifest import MANIFEST, BrokenManifest, FileEntry, ForeignFiles, Manifest, read_manifest
from storage.stage import has_part, load_spec
from tasks.generation.settings import GenerateSpec
from tasks.training.checkpoints import Checkpoint
from tasks.training.settings import CHECKPOINTS, TrainSpec

ACTIONS = ("bit flip", "truncation", "planted", "planted link", "swapped", "linked", "hard-linked")
#: Of manifests, sealed with a digest of their own: a file outside the folder, and no file at all.
FORGERIES = ("outside entry", "empty manifest")

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
        folder, made = manifest.parent, read_manifest(manifest.parent)
        targets.append(Target(manifest, "manifest", partial(_whole, folder, made.key)))
        for entry in made.files:
            path = folder / entry.path
            if path.suffix in (".parquet", ".safetensors"):
                targets.append(Target(path, path.suffix[1:], partial(_whole, folder, made.key)))
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


def _whole(folder: Path, key: str) -> Any:
    """As `storage.stage.finished` reads a stage."""
    try:
        manifest = read_manifest(folder)
    except (BrokenManifest, ForeignFiles):
        return None
    return manifest if manifest.key == key else None


def _part(spec: GenerateSpec, shard: Path) -> bytes | None:
    """A part that counts as complete must have exactly the bytes that were published."""
    return shard.read_bytes() if has_part(spec, shard) else None


def _checkpoint(folder: Path, key: str) -> Any:
    try:
        return Checkpoint.read(folder, key), sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    except BrokenManifest:
        return None


def corrupt(targets: list[Target], trials: int, *, seed: int) -> Harm:
    """`trials` random damages: a kind of file, a file of that kind, and what is done to it, drawn from `seed`."""
    draw = random.Random(seed)
    kinds: dict[str, list[Target]] = {}
    for target in targets:
        kinds.setdefault(target.kind, []).append(target)
        if target.read() is None:
            raise RuntimeError(f"{target.path} is refused before any harm was done to it")
    harm = Harm()
    for _ in range(trials):
        target = draw.choice(kinds[draw.choice(sorted(kinds))])
        action = draw.choice(ACTIONS + FORGERIES if target.kind == "manifest" else ACTIONS)
        outcome, where = _try(target, action, draw, kinds[target.kind])
        harm.trials[target.kind, action, outcome] += 1
        if outcome == "undetected":
            harm.undetected.append(f"{target.path.name}: {action} at {where}")
    return harm


def _try(target: Target, action: str, draw: random.Random, alike: list[Target]) -> tuple[str, str]:
    whole, before = target.path.read_bytes(), target.read()
    beside = target.path.with_name(f"planted-{draw.randrange(10**9)}{target.path.suffix}")
    where = _harm(target, action, draw, alike, beside)
    try:
        read = target.read()
    except Exception as error:  # an error that no caller handles does not count as detection
        return "undetected", f"{where}: {type(error).__name__}: {error}"
    finally:
        for added in (beside, _elsewhere(target, beside)):
            added.unlink(missing_ok=True)
        target.path.unlink()
        target.path.write_bytes(whole)
    if read is None:
        return "detected", where
    # Manifests and sidecars are compared by content, because white space in them does not matter.
    return ("harmless" if read == before else "undetected"), where


def _elsewhere(target: Target, beside: Path) -> Path:
    return target.path.parent.parent / f".{beside.name}.tmp"


def _harm(target: Target, action: str, draw: random.Random, alike: list[Target], beside: Path) -> str:
    """Damage the file; returns where. beside: an unused name in the same folder."""
    whole = target.path.read_bytes()
    place = draw.randrange(len(whole))
    if action == "bit flip":
        bit, harmed = draw.randrange(8), bytearray(whole)
        harmed[place] ^= 1 << bit
        target.path.write_bytes(harmed)
        return f"byte {place}, bit {bit}"
    if action == "truncation":
        target.path.write_bytes(whole[:place])
        return f"byte {place}"
    if action in FORGERIES:
        _forge(target.path, [] if action == "empty manifest" else None)
        return "the list of files"
    if action in ("planted", "planted link"):
        if target.kind == "checkpoint":  # a checkpoint's reader reads the files that it names; this one reads all
            return "nowhere"
        if action == "planted":
            beside.write_bytes(whole)
        else:
            beside.symlink_to(target.path)
        return beside.name
    other = draw.choice(alike).path
    content = other.read_bytes()
    if action == "swapped":
        target.path.write_bytes(content)
        return f"with {other}"
    elsewhere = _elsewhere(target, beside)
    elsewhere.write_bytes(draw.choice([whole, content]))
    target.path.unlink()
    if action == "hard-linked":
        target.path.hardlink_to(elsewhere)
    else:
        target.path.symlink_to(elsewhere)
    return f"to {elsewhere}"


def _forge(manifest: Path, files: list[FileEntry] | None) -> None:
    """Write the manifest with `files`, or with one outside its folder added, and a digest that holds."""
    made = read_manifest(manifest.parent, check_files=False)
    outside = FileEntry.model_construct(path="../" + made.files[0].path, bytes=1, sha256="0" * 64)
    forged = Manifest.model_construct(**(dict(made) | {"files": [*made.files, outside] if files is None else files}))
    # Without pydantic's warnings about what it would not have accepted.
    content = forged.model_dump(mode="json", warnings=False)
    content["digest"] = digest({name: value for name, value in content.items() if name != "digest"})
    manifest.write_text(canonical_json(content) + "\n", encoding="utf-8")


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


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos.corruption", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("run", type=Path, help="folder of a finished run; it is copied")
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="irepo-chaos-") as scratch:
        harm = corrupt_run(arguments.run, None, Path(scratch), arguments.damages, seed=arguments.seed)
    for action in (*ACTIONS, *FORGERIES):
        outcomes = Counter[str]()
        for (_, what, outcome), number in harm.trials.items():
            outcomes[outcome] += number if what == action else 0
        print(f"{action}: {', '.join(f'{number} {outcome}' for outcome, number in sorted(outcomes.items()) if number)}")
    print(
        f"{harm.trials.total()} damages: {harm.count('detected')} detected, {harm.count('harmless')} harmless, "
        f"{harm.count('undetected')} undetected"
    )
    for line in harm.undetected:
        print(line)
    return 1 if harm.undetected else 0


if __name__ == "__main__":
    sys.exit(main())
