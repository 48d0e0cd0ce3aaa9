"""The card of a round's preference set: README.md beside preferences.parquet."""

from typing import Any

import yaml

from tasks.reporting.cards.model import annotators
from tasks.reporting.cards.text import cell, licence, named, versions
from tasks.reporting.report.files import Round, RunFiles

_COLUMNS = (
    "`prompt`, `chosen`, `rejected` are messages, as TRL reads them. `p_hat` is the empirical preference P(chosen > "
    "rejected), `target` its logit with standard error `target_se`; votes are counted in `votes_*`. Token ids are "
    "those that the policy sampled. A row with `target` 0 is a tie: which reply is `chosen` means nothing there."
)


def dataset_card(files: RunFiles, round_: Round) -> str:
    """YAML metadata and Markdown. round_: a labelled round."""
    config = files.run.config
    labels = round_.labels or {}
    metadata: dict[str, Any] = licence(config) | {
        "tags": ["irepo", "preference", "trl"],
        "task_categories": ["reinforcement-learning", "text-generation"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "preferences.parquet"}]}],
    }
    settings = round_.stages["label"].settings.get("preferences") or {}
    dropped = ", ".join(f"{count} {reason}" for reason, count in labels.get("dropped", {}).items() if count) or "none"
    sections = [
        f"# Preferences of {files.name}, round {round_.number}",
        f"{labels.get('pairs')} pairs of replies that the policy of round {round_.base} gave to prompts of "
        f"`{named((config.get('prompts') or {}).get('path'))}`, of {labels.get('comparisons')} comparisons (left out: "
        f"{dropped}). A model wrote the replies; they may be wrong or harmful.",
        "## Columns",
        _COLUMNS,
        "## Annotators",
        *annotators(round_),
        "## From votes to targets",
        "\n".join(f"- {name}: {cell(setting)}" for name, setting in settings.items()) or "not recorded",
        "## Provenance",
        f"Content (sha256): `{round_.stages['label'].content}`.",
        *versions(round_),
    ]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n" + "\n\n".join(sections) + "\n"
