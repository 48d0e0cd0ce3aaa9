"""python -m tasks.labeling <spec.yaml>: run, or repeat by hand, one label stage.

Exits with code 3 while people on the panel have not said enough: give the same command again when they have.
"""

import sys

from tasks.command import main
from tasks.labeling.settings import LabelSpec
from tasks.labeling.stage import run
from tasks.panel.humans.collect import EXIT_WAITING, WaitingForVotes

if __name__ == "__main__":
    try:
        main(LabelSpec, run)
    except WaitingForVotes as waiting:
        print(waiting, file=sys.stderr)
        raise SystemExit(EXIT_WAITING) from None
