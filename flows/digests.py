"""Digests of what lies outside a run folder and decides what its stages make: models, functions, templates."""

from importlib.util import find_spec
from pathlib import Path

from storage.files import digest, sha256_file
from storage.manifest import folder_digest
from tasks.panel.annotators.settings import POLICY_NAMES, AnnotatorBase


def what_it_reads(annotator: AnnotatorBase) -> str | None:
    """Digest of the local files that decide how an annotator votes; None where its settings say it all.

    Of a function this is its module's source, not the modules that it imports in turn.
    """
    names = (name for name in annotator.reads() if name not in POLICY_NAMES)
    found = [contents for name in names if (contents := contents_of(name)) is not None]
    return digest(found) if found else None


def contents_of(name: str) -> str | None:
    """Digest of a folder, a file, or the module of "package.module:name"; None for what is not on this machine."""
    path = Path(name)
    if path.is_dir():
        return folder_digest(path)
    if path.is_file():
        return sha256_file(path)
    module, colon, _ = name.partition(":")
    try:
        spec = find_spec(module) if colon else None
    except (ModuleNotFoundError, ValueError):
        return None  # opening the annotator says so, with the remedy
    return sha256_file(Path(spec.origin)) if spec and spec.origin else None
