"""`python -m tasks.reporting.report runs/mine`: write the run's report.html and figures/ again from its files."""

import argparse
from pathlib import Path

from storage.display import leave, shown
from storage.errors import UserError
from tasks.reporting.report.write import write_report


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write the report of a run: one HTML file, and its figures as SVG and PNG."
    )
    parser.add_argument("run", type=Path, help="the run folder, e.g. runs/mine")
    run = parser.parse_args().run
    try:
        print(shown(write_report(run.absolute())))
    except ValueError as error:
        remedy = "python -m storage.explain names the changed files; run the run's command again to write them again"
        raise UserError(f"a file of the run cannot be read: {error}", where=str(run), remedy=remedy) from None
    return 0


if __name__ == "__main__":
    leave(main)
