"""Pulling a run from its mirror into an empty folder, with every digest checked.

Everything that the index names is looked up before the first file is written. A file gets its name when all of it came
and its digest holds; a stage's manifest is written last.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from storage.errors import UserError
from storage.exact import CARD, MANIFEST, REMOVED, SPEC, refuse_path
from storage.files import publish_file, publish_link, publishing, sha256_file
from storage.manifest import BrokenManifest, Manifest, read_manifest
from storage.mirror.index import BEGUN, INDEX, MARK, Index, Mark, begun, read_index
from storage.mirror.store import ObjectStore
from storage.owner import OWNER, owned
from storage.retention import Removed

_LISTED = 5  # objects that an error names
_MARKS = {OWNER, MARK}


@dataclass
class Pulled:
    """What a pull did. unfinished: stages whose push had not ended. removed: stages without their policy."""

    stages: int = 0
    files: int = 0
    bytes: int = 0
    unfinished: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Choice:
    """What to pull. only: these stages, with policies that were removed, and nothing else; empty: the whole run.
    without: stages to leave out. removed: in a whole pull, also policies that were removed to free disk."""

    only: Sequence[str] = ()
    without: Sequence[str] = ()
    removed: bool = False


def pull(store: ObjectStore, root: Path, choice: Choice = Choice()) -> Pulled:
    """Restore the run in `store` in the folder `root`, which is empty, or has a part of this very run.

    Raises UserError, before anything is written, where there is no mirror, for a folder with other content, and for
    objects that are missing; and for an object whose digest does not hold.
    """
    found = read_index(store)
    if found is None:
        raise UserError(
            "there is no mirror of a run",
            where=store.where(INDEX),
            remedy="give the address that storage.mirror had; the run's log and config.yaml name it",
        )
    with owned(root):
        return _Pull(store, root, found[0], choice).run()


class _Pull:
    def __init__(self, store: ObjectStore, root: Path, index: Index, choice: Choice) -> None:
        self.store, self.root, self.index, self.choice = store, root, index, choice
        self.pulled = Pulled()
        self.sizes: dict[str, int] = {}

    def run(self) -> Pulled:
        mark, whole = self._check_folder(), not self.choice.only
        self.sizes = self.store.sizes()
        manifests = self._manifests()
        texts = {name: self.store.read(f"{name}/{MANIFEST}") for name in manifests}
        self._check_objects(manifests, loose=whole)
        Mark(run=self.index.run, pulling=whole or (mark is not None and mark.pulling)).write(self.root)
        for name, manifest in manifests.items():
            self._stage(name, manifest, texts[name], restore=self.choice.removed or not whole)
        if whole:
            self._loose(overwrite=mark is None or mark.pulling)
            Mark(run=self.index.run).write(self.root)
        return self.pulled

    def _check_folder(self) -> Mark | None:
        mark = Mark.of(self.root)
        others = [path.name for path in self.root.iterdir() if path.name not in _MARKS]
        if mark is not None and mark.run == self.index.run:
            return mark
        if others or mark is not None:
            raise UserError(
                f"the folder has other content: {', '.join(sorted(others)[:_LISTED]) or 'another run of a mirror'}",
                where=str(self.root),
                remedy="pull into a folder that is empty or does not exist",
            )
        return None

    def _manifests(self) -> dict[str, Manifest]:
        """The stages to pull. Raises UserError for those that should be there and are not."""
        only, without = self.choice.only, self.choice.without
        unknown = [name for name in (*only, *without) if name not in self.index.stages]
        if unknown:
            raise UserError(
                f"the mirror has no stage {', '.join(unknown)}",
                where=self.store.address,
                remedy=f"it has: {', '.join(sorted(self.index.stages)) or 'none'}",
            )
        manifests: dict[str, Manifest] = {}
        for name in sorted(set(only or self.index.stages) - set(without)):
            pushing = self._is_pushing(name)
            if f"{name}/{MANIFEST}" not in self.sizes:
                if not pushing:
                    raise self._lost([f"{name}/{MANIFEST}"])
                self.pulled.unfinished.append(name)
                continue
            manifest = self._read(name)
            if manifest.digest != self.index.stages[name] and not pushing:
                raise UserError(
                    "this manifest is not the one that was pushed",
                    where=self.store.where(f"{name}/{MANIFEST}"),
                    remedy=_remedy(),
                )
            self._check_local(name, manifest)
            manifests[name] = manifest
        notes = {path.removeprefix(f"{BEGUN}/") for path in self.sizes if path.startswith(f"{BEGUN}/")}
        if not only:
            self.pulled.unfinished += sorted(notes - self.index.stages.keys())
        return manifests

    def _is_pushing(self, name: str) -> bool:
        """Whether a push of another version of the stage was begun and has not ended."""
        note = begun(name)
        return note in self.sizes and self.store.read(note) != self.index.stages[name].encode()

    def _read(self, name: str) -> Manifest:
        where = self.store.where(f"{name}/{MANIFEST}")
        try:
            manifest = Manifest.model_validate_json(self.store.read(f"{name}/{MANIFEST}"))
        except (ValidationError, UnicodeDecodeError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"this is not a manifest: {first}", where=where, remedy=_remedy()) from None
        if manifest.sealed().digest != manifest.digest:
            raise UserError("the manifest was altered: its digest does not hold", where=where, remedy=_remedy())
        return manifest

    def _check_local(self, name: str, manifest: Manifest) -> None:
        """Raises UserError where the folder has other work in this stage's place."""
        try:
            local = read_manifest(self.root / name, check_files=False)
        except BrokenManifest:
            return
        if local.digest != manifest.digest:
            raise UserError(
                "the folder has this stage with other content than the mirror: the run went on here",
                where=str(self.root / name),
                remedy="pull into an empty folder, or push this one: python -m storage.mirror push "
                f"{self.root} {self.store.address}",
            )

    def _check_objects(self, manifests: dict[str, Manifest], *, loose: bool) -> None:
        """Raises UserError, naming objects, unless all that will be pulled is there with its size."""
        expected = {f"{name}/{entry.path}": entry.bytes for name, manifest in manifests.items()
                    for entry in manifest.files if not self._was_removed(name, entry.path)}  # fmt: skip
        if loose:
            expected |= {file.object: file.bytes for file in self.index.files.values()}
        lost = [path for path in expected if path not in self.sizes]
        if lost:
            raise self._lost(lost)
        wrong = [path for path, size in expected.items() if self.sizes[path] != size]
        if wrong:
            raise UserError(
                f"{_count(wrong)} not as long as pushed: {self._named(wrong)}",
                where=self.store.address,
                remedy=_remedy(),
            )

    def _was_removed(self, name: str, path: str) -> bool:
        """Whether a file that the mirror lacks was removed before the stage was pushed."""
        if f"{name}/{path}" in self.sizes or f"{name}/{REMOVED}" not in self.index.files:
            return False
        removed = Removed.model_validate_json(self.store.read(self.index.files[f"{name}/{REMOVED}"].object))
        return path in removed.files

    def _stage(self, name: str, manifest: Manifest, text: bytes, *, restore: bool) -> None:
        skipped = set() if restore else self._removed(name)
        folder, seen = self.root / name, self.pulled.files
        for entry in manifest.files:
            if entry.path not in skipped and f"{name}/{entry.path}" in self.sizes:
                self._file(f"{name}/{entry.path}", folder / entry.path, entry.bytes, entry.sha256)
        if skipped:
            self.pulled.removed.append(name)
        elif restore:
            (folder / REMOVED).unlink(missing_ok=True)
        fresh = not (folder / MANIFEST).exists()
        publish_file(folder / MANIFEST, lambda temporary: _write(temporary, text))
        self.pulled.stages += fresh or self.pulled.files > seen

    def _removed(self, name: str) -> set[str]:
        file = self.index.files.get(f"{name}/{REMOVED}")
        return set(Removed.model_validate_json(self.store.read(file.object)).files) if file else set()

    def _file(self, path: str, target: Path, count: int, sha256: str) -> None:
        """Bring one object to `target`, unless that is there already."""
        if target.is_file() and target.stat().st_size == count and sha256_file(target) == sha256:
            return
        with publishing(target) as temporary:
            if self.store.download(path, temporary) != sha256:
                raise UserError(
                    "the object was altered: its sha256 is not the one that was pushed",
                    where=self.store.where(path),
                    remedy=_remedy(),
                )
        self.pulled.files += 1
        self.pulled.bytes += count

    def _loose(self, *, overwrite: bool) -> None:
        """Files that no manifest names, and links. Without overwrite, files that are there stay."""
        for name, file in self.index.files.items():
            target = self.root / _inside(name, self.store)
            unfinished = any(name.startswith(f"{stage}/") for stage in self.pulled.unfinished)
            if (target.name == REMOVED and self.choice.removed) or (target.exists() and not overwrite):
                continue
            if unfinished and target.name in (CARD, REMOVED):
                continue
            self._file(file.object, target, file.bytes, file.sha256)
            if target.name in (SPEC, "config.yaml"):
                target.chmod(0o600)
        for name, link in self.index.links.items():
            publish_link(self.root / _inside(name, self.store), self.root / _inside(link, self.store))

    def _lost(self, paths: Sequence[str]) -> UserError:
        return UserError(f"{_count(paths)} missing: {self._named(paths)}", where=self.store.address, remedy=_remedy())

    def _named(self, paths: Iterable[str]) -> str:
        paths = list(paths)
        more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
        return ", ".join(paths[:_LISTED]) + more


def _count(paths: Sequence[str]) -> str:
    return "1 object is" if len(paths) == 1 else f"{len(paths)} objects are"


def _remedy() -> str:
    return (
        "push the run again from a machine that has it, or leave the stage out, so that the run makes it again: "
        "python -m storage.mirror pull ... --without <stage>"
    )


def _inside(name: str, store: ObjectStore) -> str:
    """A path of the index, if it lies below the run folder. Raises UserError for any other."""
    try:
        return refuse_path(name)
    except ValueError as error:
        raise UserError(
            f"the index names a place outside the run: {error}",
            where=store.where(INDEX),
            remedy="push the run again from the machine that has it, to another address",
        ) from None


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
