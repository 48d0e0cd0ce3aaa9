"""Pushing a run folder: each stage's files first, its manifest last; then what no manifest names, then the index.

A stage that replaces another one under the same paths is taken down first: its manifest, then its files. A push that
dies leaves a stage without a manifest, which is not finished, and a note of what was under way; the next push goes on
with the objects that are there.
"""

import logging
import secrets
import socket
import time
from pathlib import Path

from storage.errors import UserError
from storage.exact import MANIFEST
from storage.files import sweep_temporaries
from storage.manifest import FileEntry, Manifest
from storage.mirror.files import RunFiles, Scanner
from storage.mirror.index import INDEX, LOOSE, Index, LooseFile, Mark, begun, read_index, refuse_unfinished_pull
from storage.mirror.store import ObjectStore
from storage.retention import removed_files

log = logging.getLogger("irepo")

_RATE = 1_000_000  # bytes a second: so often a file that grows is pushed again while a run goes on
_PAUSE = 60.0  # and at most once in so many seconds


class Altered(UserError):
    """A published file that is not the one its manifest names: it is not pushed."""


class Pusher:
    """Brings the mirror of one run folder up to date. Not for two threads at a time."""

    def __init__(self, root: Path, store: ObjectStore) -> None:
        """Raises UserError when the mirror belongs to another run, or a pull into the folder has not ended."""
        refuse_unfinished_pull(root)
        self.root, self.store, self._scanner = root, store, Scanner(root)
        self.sent_bytes = 0
        mark, found = Mark.of(root), read_index(store)
        if found is None:
            self._index, self._content = Index(run=mark.run if mark else secrets.token_hex(8), name=root.name), None
        else:
            self._index, self._content = found[0], found[1]
            if mark is None or mark.run != self._index.run:
                raise _other_run(self._index, store, root)
        self._mark = Mark(run=self._index.run)
        self._seen: dict[str, tuple[int, int, float]] = {}  # of loose files: size, mtime, when pushed
        self._objects: dict[str, int] = {}
        self._looked = False

    def missing(self) -> list[str]:
        """Finished stages that the mirror does not have."""
        return self._missing(self._scanner.scan())

    def _missing(self, files: RunFiles) -> list[str]:
        return [name for name, manifest in files.stages.items() if self._index.stages.get(name) != manifest.digest]

    def has(self, stage: str, manifest: Manifest) -> bool:
        """Whether the mirror has this very stage."""
        return self._index.stages.get(stage) == manifest.digest

    def push(self, *, everything: bool) -> int:
        """Push what is new; returns the number of stages. everything: also files that were pushed a moment ago.

        Raises StoreFault for the store's faults, Altered for a stage that was damaged; other stages are pushed first.
        """
        if Mark.of(self.root) != self._mark:
            self._mark.write(self.root)
        files, altered, pushed = self._scanner.scan(), list[Altered](), 0
        if not self._looked:
            self._look()
        missing = self._missing(files)
        if missing or everything:
            self._check_alone()
        for name in missing:
            try:
                self._stage(name, files.stages[name])
                pushed += 1
            except Altered as error:
                altered.append(error)
            except FileNotFoundError:  # the stage is being made again; it is pushed when it is finished
                log.info("%s is not pushed: it is made again", name)
        self._loose(files, everything=everything or pushed > 0)
        if altered:
            raise altered[0]
        return pushed

    def _look(self) -> None:
        """List the store, and remove files that a push that died left there and no index names."""
        self._objects = self.store.sizes()
        kept = {file.object for file in self._index.files.values()}
        for path in self._objects:
            if path.startswith(f"{LOOSE}/") and path not in kept:
                self.store.remove(path)
        self._looked = True

    def _stage(self, name: str, manifest: Manifest) -> None:
        folder, gone = self.root / name, removed_files(self.root / name)
        entries = [entry for entry in manifest.files if entry.path not in gone]
        if len(entries) < len(manifest.files):
            log.warning("%s is pushed without its policy, which was removed before", name)
        text = (folder / MANIFEST).read_bytes()
        there = self._take_down(name, manifest.digest)
        for entry in entries:
            path = f"{name}/{entry.path}"
            if there.get(path) != entry.bytes:
                self._file(path, folder, entry)
        if (folder / MANIFEST).read_bytes() != text:
            raise FileNotFoundError(name)
        self.store.write(f"{name}/{MANIFEST}", text)
        self._index.stages[name] = manifest.digest
        self._objects[f"{name}/{MANIFEST}"] = len(text)
        self._write_index()

    def _take_down(self, name: str, digest: str) -> dict[str, int]:
        """Note that a push of `name` is under way, and remove what is there of another one; returns what is left."""
        note, objects = begun(name), self._objects
        there = self._listed(name)
        if note in objects and self.store.read(note) == digest.encode():
            return there
        if there:
            self.store.write(note, b"")
        for path in sorted(there, key=lambda path: not path.endswith(f"/{MANIFEST}")):
            self.store.remove(path)
            del objects[path]
        self.store.write(note, digest.encode())
        objects[note] = len(digest)
        return {}

    def _listed(self, name: str) -> dict[str, int]:
        """Objects of a stage, without those of stages below it."""
        inner = [path.removesuffix(MANIFEST) for path in self._objects if path.endswith(f"/{MANIFEST}")]
        inner = [prefix for prefix in inner if prefix.startswith(f"{name}/") and prefix != f"{name}/"]
        return {
            path: size
            for path, size in self._objects.items()
            if path.startswith(f"{name}/") and not path.startswith(tuple(inner))
        }

    def _file(self, path: str, folder: Path, entry: FileEntry) -> None:
        sent, sha = self.store.upload(path, folder / entry.path)
        self.sent_bytes += sent
        self._objects[path] = sent
        if sha != entry.sha256:
            self.store.remove(path)
            raise Altered(
                "a published file was altered: its sha256 is not the one in its manifest; its stage is not pushed",
                where=str(folder / entry.path),
                remedy="give the run's command again: it makes the stage anew",
            )

    def _loose(self, files: RunFiles, *, everything: bool) -> None:
        """Push files that changed, then the index; remove the objects of earlier versions."""
        old = dict(self._index.files)
        changed = False
        for name, path in files.loose.items():
            try:
                stat = path.stat()
                if self._is_pushed(name, stat.st_size, stat.st_mtime_ns, everything=everything):
                    continue
                target = f"{LOOSE}/{secrets.token_hex(6)}/{name}"
                sent, sha = self.store.upload(target, path)
            except FileNotFoundError:  # removed meanwhile
                continue
            self.sent_bytes += sent
            self._index.files[name] = LooseFile(object=target, bytes=sent, sha256=sha)
            self._seen[name] = (stat.st_size, stat.st_mtime_ns, time.monotonic())
            changed = True
        for name in old.keys() - files.loose.keys():
            del self._index.files[name]
            changed = True
        if changed or self._index.links != files.links:
            self._index.links = files.links
            self._write_index()
            kept = {file.object for file in self._index.files.values()}
            for file in old.values():
                if file.object not in kept:
                    self.store.remove(file.object)

    def _is_pushed(self, name: str, size: int, changed: int, *, everything: bool) -> bool:
        """Whether the mirror has the file as it is, or had it a moment ago."""
        if name not in self._index.files or name not in self._seen:
            return False
        seen_size, seen_change, when = self._seen[name]
        if (seen_size, seen_change) == (size, changed):
            return True
        return not everything and time.monotonic() - when < max(_PAUSE, size / _RATE)

    def _check_alone(self) -> None:
        """Raises UserError when another process has pushed: two would remove each other's files."""
        found = read_index(self.store)
        if (found[1] if found else None) != self._content:
            by = f", by {found[0].pushed_by} at {found[0].pushed}" if found else ""
            raise UserError(
                f"another process has changed the mirror since this one looked{by}",
                where=self.store.where(INDEX),
                remedy="let one machine continue the run, or give the other one a mirror of its own",
            )

    def _write_index(self) -> None:
        content = self._index.sealed()
        self.store.write(INDEX, content)
        self._content = content


def check_mirror(root: Path, store: ObjectStore) -> None:
    """Raises UserError when the mirror cannot be written, read and listed, or is another run's. Takes seconds."""
    probe, content = f".irepo/writable-{secrets.token_hex(4)}", socket.gethostname().encode()
    store.write(probe, content)
    if store.read(probe) != content:
        raise UserError(
            "the store gives back other bytes than were written",
            where=store.where(probe),
            remedy="an older S3 server does not know checksums that follow the content; start the run with "
            "AWS_REQUEST_CHECKSUM_CALCULATION=when_required, or use a newer server",
        )
    if probe not in store.sizes():
        raise UserError(
            "an object that was just written is not there",
            where=store.where(probe),
            remedy="use a store that shows what was written at once",
        )
    store.remove(probe)
    root.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(root)
    Pusher(root, store)


def _other_run(index: Index, store: ObjectStore, root: Path) -> UserError:
    return UserError(
        f"the mirror has another run: {index.name}, pushed by {index.pushed_by} at {index.pushed}",
        where=store.address,
        remedy=f"to continue that run here, pull it first: python -m storage.mirror pull {store.address} {root}; "
        "otherwise choose another address",
    )
