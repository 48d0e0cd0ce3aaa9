"""Whether the evaluation can measure anything on the run's held-out prompts: known as soon as they are read."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from conf.schema import RunConfig
from storage.errors import UserError
from tasks.generation.prompts import HELDOUT
from tasks.panel.annotators.settings import AnnotatorBase

log = logging.getLogger("irepo")


def check_measurable(config: RunConfig, prompts: Path) -> None:
    """Raise UserError when every judge would abstain on every held-out prompt; log a warning when one would.

    prompts: the folder of the run's prompts. A judge abstains where the prompt has no answer or reference that it
    compares with.
    """
    table = pq.read_table(prompts / HELDOUT, columns=["answer", "reference"])
    present = {
        field: sum(bool((value or "").strip()) for value in table[field].to_pylist()) for field in table.column_names
    }
    blind = _blind(config.evaluation.judges, present)
    if blind and len(blind) == len(config.evaluation.judges):
        raise UserError(
            f"no win rate could be measured: {_said(blind)}, and none of the {table.num_rows} held-out prompts has one",
            where=f"evaluation.judges, {config.prompts.path}",
            remedy="give evaluation=judge (a model compares the replies), evaluation=plain (no win rates), or name the "
            f"field that has it: {_fields(blind)}",
        )
    others = blind | _blind(config.evaluation.rates, present) | _blind(config.panel.annotators, present)
    if others:
        log.warning("%s, and no held-out prompt has one: these will abstain throughout", _said(others))


def _blind(annotators: Mapping[str, AnnotatorBase], present: Mapping[str, int]) -> dict[str, str]:
    """The annotators that need a field which no prompt has, with that field."""
    needed = {name: each.compares_with() for name, each in annotators.items()}
    return {name: field for name, field in needed.items() if field is not None and not present[field]}


def _said(blind: Mapping[str, str]) -> str:
    return ", ".join(f"{name} compares with a prompt's `{field}`" for name, field in blind.items())


def _fields(blind: Mapping[str, str]) -> str:
    return " ".join(f"prompts.{field}_field=<name>" for field in dict.fromkeys(blind.values()))
