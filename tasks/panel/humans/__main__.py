"""Serve the page where people vote, on this machine: python -m tasks.panel.humans <run folder>"""

import argparse
import contextlib
import sys
from pathlib import Path

from storage.errors import UserError
from tasks.panel.humans.batch import batch_label
from tasks.panel.humans.server import PORT, VoteServer


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the page where people vote, until Ctrl-C.")
    parser.add_argument("folder", type=Path, help="a run's folder or a batch's; every open batch below it is served")
    parser.add_argument("--port", type=int, default=PORT)
    arguments = parser.parse_args()
    try:
        server = VoteServer(arguments.folder, arguments.port)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for progress in server.queue.open_batches().values():
        label, needed = batch_label(progress.batch.folder), progress.batch.info.needed
        print(f"{label}: {progress.complete} of {needed} comparisons have their votes")
    print(f"vote at {server.address}   (Ctrl-C ends; nothing is lost)", flush=True)
    with contextlib.suppress(KeyboardInterrupt), server:
        server.serve_forever()


if __name__ == "__main__":
    main()
