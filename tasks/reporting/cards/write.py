"""Cards of every finished round: README.md in the policy's folder and beside the preference set.

Cards are written after the stages they describe and are part of no manifest and no key: they can be written again, and
a resumed run sees no change.
"""

from pathlib import Path

from storage.files import publish_text
from storage.manifest import CARD
from tasks.reporting.cards.dataset import dataset_card
from tasks.reporting.cards.model import model_card
from tasks.reporting.report.files import Round, read_run


def policy_folder(round_: Round) -> Path | None:
    """Folder of the policy that a round ended with; None before it has trained one."""
    made = next((stage for stage in ("update", "train") if stage in round_.stages), None)
    return round_.folder / made / "policy" if made else None


def write_cards(root: Path) -> list[Path]:
    """Write the cards of the run in `root`; returns their paths. Equal files give equal bytes.

    Raises UserError when `root` is not a run folder.
    """
    files, written = read_run(root), []
    for round_ in files.rounds:
        folder = policy_folder(round_)
        if folder is not None and folder.is_dir() and round_.figures:
            written.append((folder / CARD, model_card(files, round_)))
        if "label" in round_.stages:
            written.append((round_.folder / "label" / CARD, dataset_card(files, round_)))
    for path, card in written:
        if not path.is_file() or path.read_text(encoding="utf-8") != card:
            publish_text(path, card)
    return [path for path, _ in written]
