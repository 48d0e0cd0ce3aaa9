"""The page where people vote on a run. When there are enough votes, a suspended run is resumed.

python -m flows.vote runs/mine
python -m flows.vote runs/mine --agreement      # how far people agree; nothing is served
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
    exit_on_help(sys.argv[1:], plain_help("flows.vote", __doc__ or "", "<run folder> [--port=<number>] [--agreement]"))
prepare()
quiet_console()

from conf.compose import validate_config  # noqa: E402  (Prefect reads its settings as it is imported)
from flows.agreement import agreement_lines  # noqa: E402
from flows.people import resume_waiting  # noqa: E402
from storage.errors import UserError  # noqa: E402
from storage.files import parse_yaml  # noqa: E402
from storage.layout import RunLayout  # noqa: E402
from tasks.panel.annotators.human import HumanSettings  # noqa: E402
from tasks.panel.humans.batch import INFO, batch_label, read_batch  # noqa: E402
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


def check_people(run: Path) -> None:
    """Raises UserError unless people vote in the run in this folder, or in a run below it."""
    if next(run.rglob(INFO), None) is not None:
        return
    configs = [run / "config.yaml"] if (run / "config.yaml").is_file() else sorted(run.glob("*/config.yaml"))
    for config in configs:
        annotators = validate_config(parse_yaml(config.read_text(encoding="utf-8"))).panel.annotators
        if any(isinstance(settings, HumanSettings) for settings in annotators.values()):
            return
    if not configs:
        raise UserError(
            "there is no run in this folder" if run.is_dir() else "this folder does not exist",
            where=str(run),
            remedy="give a run folder, such as runs/mine; python -m flows.runs lists runs",
        )
    raise UserError(
        "nobody votes in this run: its panel has no annotator of kind human",
        where=f"{configs[0]}: panel.annotators" if len(configs) == 1 else str(run),
        remedy="start a run with people on its panel: '+panel.annotators.people={kind: human}'",
    )


def print_agreement(run: Path) -> None:
    """Print, for every batch of the run, how far people agree. Raises UserError when there is no batch yet."""
    folders = sorted(path.parent for path in run.rglob(INFO))
    if not folders:
        raise UserError(
            "no round has asked people yet", where=str(run), remedy="wait until its first label stage has begun"
        )
    for folder in folders:
        for line in agreement_lines(read_batch(folder)):
            console.print(line, soft_wrap=True, highlight=False, markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the page where people vote on a run, until Ctrl-C.")
    parser.add_argument("run", type=Path, help="the run folder, e.g. runs/mine")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--agreement", action="store_true", help="print how far people agree, and serve nothing")
    words = parser.parse_args()
    check_people(words.run)
    if words.agreement:
        print_agreement(words.run)
        return
    server = VoteServer(words.run, words.port)
    waiting = server.queue.open_batches()
    for standing in waiting.values():
        done, needed = standing.complete, standing.batch.info.needed
        console.print(f"{batch_label(standing.batch.folder)}: {done} of {needed} comparisons have their votes")
    if not waiting:
        console.print("no round waits for votes now; the page shows the next one as soon as there is one")
    console.print(f"vote at {server.address}   (Ctrl-C ends; nothing is lost)", soft_wrap=True)
    threading.Thread(target=watch, args=(server.queue, RunLayout(words.run)), daemon=True).start()
    with server:
        server.serve_forever()


if __name__ == "__main__":
    exit_on_user_error(main)
