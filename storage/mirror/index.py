"""What a mirror holds, and where its objects are.

A stage's files are under their own paths, `<prefix>/round-01/train/policy/model.safetensors`, and its manifest is put
last. What no manifest names (the configuration, the log, rounds.json, journals of answers, the report) changes while a
run goes on: each version is an object of its own below `.irepo/files/`. The index, `.irepo/index.json`, says which
version counts; it is one object, replaced as a whole.
"""

import socket
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.errors import UserError
from storage.files import canonical_json, digest, publish_text
from storage.manifest import now
from storage.mirror.store import NoObject, ObjectStore

INDEX = ".irepo/index.json"
LOOSE = ".irepo/files"
BEGUN = ".irepo/begun"
#: In the run folder: which mirror it belongs to, and whether a pull into it is under way.
MARK = ".mirror.json"


class LooseFile(BaseModel):
    """A file that no manifest names. object: its path in the store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    object: str
    bytes: int
    sha256: str


class Index(BaseModel):
    """run: an id that the run folder has too. stages: the digest of each stage's manifest, by folder below the run.
    links: targets of links, both relative to the run. pushed_by: the host that wrote it."""

    model_config = ConfigDict(extra="forbid")

    run: str
    name: str
    stages: dict[str, str] = Field(default_factory=dict)
    files: dict[str, LooseFile] = Field(default_factory=dict)
    links: dict[str, str] = Field(default_factory=dict)
    pushed_by: str = ""
    pushed: str = ""
    digest: str = ""

    def sealed(self) -> bytes:
        """Its text, with the time and its own digest."""
        self.pushed_by, self.pushed = socket.gethostname(), now()
        self.digest = self._own_digest()
        return (canonical_json(self.model_dump(mode="json")) + "\n").encode()

    def _own_digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"digest"}))

    @classmethod
    def parse(cls, content: bytes, where: str) -> Self:
        """Raises UserError for an index that is cut or altered."""
        remedy = "push the run again from the machine that has it, to another address"
        try:
            index = cls.model_validate_json(content)
        except ValidationError as error:
            first = str(error).splitlines()[0]
            raise UserError(f"this is not the index of a mirror: {first}", where=where, remedy=remedy) from None
        if index.digest != index._own_digest():
            raise UserError("the index of the mirror was altered: its digest does not hold", where=where, remedy=remedy)
        return index


class Mark(BaseModel):
    """The content of MARK. pulling: a pull into the folder has not ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    pulling: bool = False

    @classmethod
    def of(cls, root: Path) -> Self | None:
        """None in a folder that was never pushed or pulled. Raises UserError when the file is damaged."""
        try:
            return cls.model_validate_json((root / MARK).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(
                "the file that says which mirror a run belongs to is damaged",
                where=str(root / MARK),
                remedy="remove it and push to a new address, or pull the run into an empty folder",
            ) from None

    def write(self, root: Path) -> None:
        publish_text(root / MARK, self.model_dump_json() + "\n")


def begun(stage: str) -> str:
    """The object that holds the digest of the manifest whose push was begun last; empty while another one is removed.

    The push has ended when the index has the same digest.
    """
    return f"{BEGUN}/{stage}"


def read_index(store: ObjectStore) -> tuple[Index, bytes] | None:
    """The index and its text; None where nothing was pushed. Raises StoreFault, and UserError for a damaged one."""
    try:
        content = store.read(INDEX)
    except NoObject:
        return None
    return Index.parse(content, store.where(INDEX)), content


def refuse_unfinished_pull(root: Path) -> None:
    """Raises UserError in a folder whose pull did not end: a run there would make again what is still to come."""
    mark = Mark.of(root)
    if mark is not None and mark.pulling:
        raise UserError(
            "a pull into this run folder did not end",
            where=str(root),
            remedy="give the pull command again; it goes on where it stopped: python -m storage.mirror pull <address> "
            f"{root}",
        )
