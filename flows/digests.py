"""Files outside a run folder that decide what its stages make: models, modules of functions, templates."""

from importlib.util import find_spec
from pathlib import Path

from storage.artifact import Artifact
from storage.files import digest
from tasks.panel.annotators.settings import POLICY_NAMES, AnnotatorBase


def files_of(annotator: AnnotatorBase) -> Artifact | None:
    """The local files that decide how an annotator votes, under one digest; None where there are none.

    The path is that of the first one. Of a function the source of its module counts, not the modules that it imports.
    """
    names = (name for name in annotator.reads() if name not in POLICY_NAMES)
    files = [file for name in names if (file := local_file(name)) is not None]
    if not files:
        return None
    return Artifact(path=files[0].path, digest=digest([file.digest for file in files]))


def local_file(name: str) -> Artifact | None:
    """A folder, a file, or the module of "package.module:name"; None for what is not on this machine."""
    path = Path(name)
    if path.exists():
        return Artifact.of(path)
    module, colon, _ = name.partition(":")
    try:
        spec = find_spec(module) if colon else None
    except (ModuleNotFoundError, ValueError):
        return None  # opening the annotator raises, with the remedy
    return Artifact.of(Path(spec.origin)) if spec and spec.origin else None
