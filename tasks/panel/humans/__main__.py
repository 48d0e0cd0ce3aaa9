"""python -m tasks.panel.humans <run folder>: serve the page where people vote, on this machine."""

import argparse
import contextlib
import sys
from pathlib import Path

from storage.errors import UserError
from tasks.panel.humans.server import PORT, VoteServer


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the page where people vote, until Ctrl-C.")
    parser.add_argument("folder", type=Path, help="a run's folder, or one batch's: everything below it that waits")
    parser.add_argument("--port", type=int, default=PORT)
    words = parser.parse_args()
    try:
        server = VoteServer(words.folder, words.port)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for name, standing in server.desk.standings().items():
        print(f"{name}: {standing.complete} of {standing.batch.about.needed} comparisons have their votes")
    print(f"vote at {server.address}   (Ctrl-C ends; nothing is lost)", flush=True)
    with contextlib.suppress(KeyboardInterrupt), server:
        server.serve_forever()


if __name__ == "__main__":
    main()
