"""Pushes a run's policy and preference sets to the Hugging Face hub, on request only."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import UserError
from storage.manifest import CARD
from tasks.reporting.cards.write import policy_folder, write_cards
from tasks.reporting.report.files import Round, read_run

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def check_token(where: str) -> None:
    """Raise UserError without a token for the hub."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(
            "pushing to the hub needs a token",
            where=where,
            remedy="export HF_TOKEN=... with a token that has write access, or leave the option out",
        )


def push(
    root: Path, *, policy: str | None = None, preferences: str | None = None, api: "HfApi | None" = None
) -> list[str]:
    """Upload the last promoted policy of the run in `root` to the repository `policy`, and the preference sets of all
    rounds to the dataset repository `preferences`. Missing repositories are created, private. Returns their addresses.

    The token is huggingface_hub's: HF_TOKEN, or that of a login. Raises UserError for every kind of failure.
    """
    from huggingface_hub import HfApi

    hub = api or HfApi()
    write_cards(root)
    rounds = read_run(root).rounds
    addresses = []
    try:
        if policy is not None:
            addresses.append(_push(hub, policy, "model", _last_promoted(rounds, root)))
        if preferences is not None:
            with tempfile.TemporaryDirectory() as temporary:
                addresses.append(_push(hub, preferences, "dataset", _gathered(rounds, Path(temporary), root)))
    except UserError:
        raise
    except Exception as error:  # from the hub's client, the network or the disk: the run is already finished
        remedy = f"the run itself is complete; push again with: python -m tasks.reporting.cards {root}"
        remedy += "".join(
            f" --{kind} {name}" for kind, name in (("policy", policy), ("preferences", preferences)) if name
        )
        raise UserError(
            f"the push to the hub failed: {(str(error) or type(error).__name__).splitlines()[0]}",
            where=policy or str(preferences),
            remedy=remedy,
        ) from None
    return addresses


def _push(hub: "HfApi", repository: str, kind: str, folder: Path) -> str:
    url = hub.create_repo(repository, repo_type=kind, private=True, exist_ok=True)
    # Manifests and specs contain paths of this machine; the run folder keeps them.
    private = ["manifest.json", "spec.yaml", ".*"]
    hub.upload_folder(repo_id=repository, repo_type=kind, folder_path=folder, ignore_patterns=private,
                      commit_message="Upload by irepo")  # fmt: skip
    return str(url)


def _last_promoted(rounds: Sequence[Round], root: Path) -> Path:
    for round_ in reversed(rounds):
        folder = policy_folder(round_)
        promoted = round_.decision is not None and round_.decision.action != "roll back"
        if promoted and folder is not None and folder.is_dir():
            return folder
    raise UserError("no round of this run was promoted", where=str(root), remedy="push after a round was promoted")


def _gathered(rounds: Sequence[Round], folder: Path, root: Path) -> Path:
    """All rounds' preference sets as one dataset, one split per round, with the last round's card."""
    labelled = [
        round_
        for round_ in rounds
        if (round_.folder / "label" / "preferences.parquet").is_file() and "label" in round_.stages
    ]
    if not labelled:
        raise UserError("no round of this run is labelled", where=str(root), remedy="push after the first label stage")
    splits = []
    for round_ in labelled:
        name = f"round-{round_.number:02d}.parquet"
        shutil.copyfile(round_.folder / "label" / "preferences.parquet", folder / name)
        splits.append(f"  - split: round_{round_.number:02d}\n    path: {name}")
    card = (labelled[-1].folder / "label" / CARD).read_text(encoding="utf-8")
    own = "  - split: train\n    path: preferences.parquet"
    (folder / CARD).write_text(card.replace(own, "\n".join(splits), 1), encoding="utf-8")
    return folder
