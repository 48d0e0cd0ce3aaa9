"""`python -m tasks.reporting.cards runs/mine`: write the run's cards again; push only with --policy or --preferences.

python -m tasks.reporting.cards runs/mine --policy me/model --preferences me/data
"""

import argparse
from pathlib import Path

from storage.display import leave, shown
from tasks.reporting.cards.hub import check_token, push
from tasks.reporting.cards.write import write_cards


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the cards of a run's policies and preference sets.")
    parser.add_argument("run", type=Path, help="the run folder, e.g. runs/mine")
    parser.add_argument("--policy", help="push the last promoted policy to this repository of the hub; needs HF_TOKEN")
    parser.add_argument("--preferences", help="push the preference sets to this dataset repository")
    options = parser.parse_args()
    for path in write_cards(options.run.absolute()):
        print(shown(path))
    if options.policy or options.preferences:
        check_token("--policy or --preferences")
        print(*push(options.run.absolute(), policy=options.policy, preferences=options.preferences), sep="\n")
    return 0


if __name__ == "__main__":
    leave(main)
