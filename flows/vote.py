"""The page where people vote on a run. When there are enough votes, a suspended run is resumed.

python -m flows.vote runs/mine
"""

import argparse
import sys
import threading
import time
from pathlib import Path

from flows.help import exit_on_help, plain_help
from flows.operations.environment import prepare, quiet_console
from flows.show.terminal import console, exit_on_user_error

if __name__ == "__main__":
    exit_on_help(sys.argv[1:], plain_help("flows.vote", __doc__ or "", "<run folder> [--port=<number>]"))
prepare()
quiet_console()

from flows.people import resume_waiting  # noqa: E402  (Prefect reads its settings as it is imported)
from storage.layout import RunLayout  # noqa: E402
from tasks.panel.humans.server import PORT, VoteServer  # noqa: E402
from tasks.panel.humans.vote_queue import VoteQueue  # noqa: E402

_POLL = 2.0  # seconds between checks for new votes


def watch(queue: VoteQueue, layout: RunLayout) -> None:
    """Report when the batches of the run have enough votes, and resume a suspended run. Does not return."""
    reported: tuple[str, ...] = ()
    last_error = ""
    while True:
        time.sleep(_POLL)
        try:
            standings = queue.open_batches()
            ready = tuple(standings) if all(standing.reached for standing in standings.values()) else ()
            resumed = bool(ready) and resume_waiting(layout)
        except Exception as error:  # the page stays up whatever fails here
            if str(error) != last_error:
                console.print(f"cannot resume the run yet: {error}", soft_wrap=True)
            last_error = str(error)
            continue
        if resumed:
            console.print("there are enough votes; the run is resumed")
        elif ready and ready != reported:
            console.print("there are enough votes; start a run that is not suspended again with its command")
        reported, last_error = ready, ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the page where people vote on a run, until Ctrl-C.")
    parser.add_argument("run", type=Path, help="the run folder, e.g. runs/mine")
    parser.add_argument("--port", type=int, default=PORT)
    words = parser.parse_args()
    server = VoteServer(words.run, words.port)
    for name, standing in server.queue.open_batches().items():
        console.print(f"{name}: {standing.complete} of {standing.batch.info.needed} comparisons have their votes")
    console.print(f"vote at {server.address}   (Ctrl-C ends; nothing is lost)", soft_wrap=True)
    threading.Thread(target=watch, args=(server.queue, RunLayout(words.run)), daemon=True).start()
    with server:
        server.serve_forever()


if __name__ == "__main__":
    exit_on_user_error(main)
