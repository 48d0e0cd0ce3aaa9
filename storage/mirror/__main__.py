"""Push a run folder to an object store, or restore it from there.

    python -m storage.mirror push runs/mine                          # to the address in its config.yaml
    python -m storage.mirror push runs/mine s3://bucket/mine
    python -m storage.mirror pull s3://bucket/mine runs/mine         # into an empty folder; every digest is checked
    python -m storage.mirror pull s3://bucket/mine runs/mine --stage round-01/train    # a policy that was removed
    python -m storage.mirror pull s3://bucket/mine runs/mine --without round-02/train  # the run makes it again

After a pull, the command that started the run continues it. Addresses: s3://bucket/prefix, gs://bucket/prefix,
abfss://container@account.dfs.core.windows.net/prefix. A server of your own: --endpoint-override
http://127.0.0.1:9000. Credentials are found where each provider's tools look for them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from storage.display import counted, leave, size
from storage.errors import UserError
from storage.lineage import CONFIG, Run
from storage.mirror.pull import Choice, pull
from storage.mirror.push import Pusher, check_mirror
from storage.mirror.store import ObjectStore, open_store
from storage.owner import owned
from storage.settings import StorageSettings


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code. Raises UserError."""
    options = _parser().parse_args(words)
    if options.verb == "push":
        _push(options.run, options.address, options.endpoint_override)
    else:
        choice = Choice(only=options.stage, without=options.without, removed=options.removed)
        _pull(open_store(options.address, options.endpoint_override), options.run, choice)
    return 0


def _push(root: Path, address: str | None, endpoint: str | None) -> None:
    if not (root / CONFIG).is_file():
        raise UserError(f"this is no run folder: {CONFIG} is missing", where=str(root), remedy="name one: runs/mine")
    own = StorageSettings.model_validate(Run(root, {}, {}).config.get("storage") or {})
    address = address or own.mirror
    if address is None:
        raise UserError(
            "no address: the run has no storage.mirror",
            where=str(root / CONFIG),
            remedy=f"give one: python -m storage.mirror push {root} s3://bucket/prefix",
        )
    with owned(root):
        store = open_store(address, endpoint or own.endpoint_override)
        check_mirror(root, store)
        pusher = Pusher(root, store)
        stages = pusher.push(everything=True)
    print(f"pushed {counted(stages, 'stage')}, {size(pusher.sent_bytes)}, to {store.address}")


def _pull(store: ObjectStore, root: Path, choice: Choice) -> None:
    done = pull(store, root, choice)
    print(f"pulled {counted(done.stages, 'stage')}, {counted(done.files, 'file')}, {size(done.bytes)}, into {root}")
    if done.unfinished:
        print(f"not finished when they were pushed, so the run makes them again: {', '.join(done.unfinished)}")
    if done.removed:
        print(
            f"without policies that had been removed: {', '.join(done.removed)}; with them: --removed, or "
            f"--stage {done.removed[0]}"
        )
    if not choice.only:
        print("every digest holds; the command that started the run continues it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m storage.mirror", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="push|pull")
    push = verbs.add_parser("push", help="copy what is new of a run folder into its mirror")
    push.add_argument("run", type=Path, help="the run folder")
    push.add_argument("address", nargs="?", help="of the mirror (default: storage.mirror of the run)")
    back = verbs.add_parser("pull", help="restore a run folder from its mirror")
    back.add_argument("address", help="of the mirror")
    back.add_argument("run", type=Path, help="an empty folder, or one that does not exist")
    back.add_argument("--stage", action="append", default=[], help="restore this stage only; may be repeated")
    back.add_argument("--without", action="append", default=[], help="leave this stage out; may be repeated")
    back.add_argument("--removed", action="store_true", help="also policies that had been removed to free disk")
    for verb in (push, back):
        verb.add_argument("--endpoint-override", help="address of an S3 or GCS server of your own")
    return parser


if __name__ == "__main__":
    leave(lambda: main(sys.argv[1:]))
