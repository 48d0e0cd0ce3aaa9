"""The data that a run reads, before anything is paid for: an offline set is read whole, and what was read is shown."""

from pathlib import Path

from flows.plan import Plan
from flows.show.terminal import console
from storage.manifest import Manifest
from storage.stage import keyed
from tasks.generation.prompts import HELDOUT, TRAIN
from tasks.mixing.offline import OfflineCounts, read_offline
from tasks.modeling.load import load_tokenizer

#: What this process has checked and shown: the command and its flow check the same run.
_done: set[tuple[str, str]] = set()


def check_offline(plan: Plan) -> None:
    """Read the offline preference set, as the first round will. Raises UserError with the file and row of a fault."""
    offline = plan.config.mixing.offline
    if offline is None or not _first("offline", f"{offline.path} {keyed(offline)} {plan.initial.digest}"):
        return
    counts = OfflineCounts()
    read_offline(
        offline,
        load_tokenizer(plan.initial.path, trust_remote_code=plan.config.policy.trust_remote_code),
        counts,
    )
    notes = [
        _note(counts.equal, "left out, because both responses are equal"),
        _note(counts.repeated, "the same as an earlier pair"),
        _note(counts.contradicted, "an earlier pair the other way round"),
    ]
    _show(f"offline set: {counts.rows} rows read", notes)


def show_prompts(folder: Path, manifest: Manifest) -> None:
    """One line about the run's prompts, once a process: rows read, left out, and prompts to train on and held out."""
    if not _first("prompts", f"{folder} {manifest.digest}"):
        return
    summary, rows = manifest.summary, manifest.rows
    notes = [
        _note(summary.get("repeated", 0), "with the prompt of an earlier row, left out"),
        _note(summary.get("conflicting", 0), "of these with another answer than the first"),
        _note(summary.get("shared_with_heldout", 0), "held out by the file of held-out prompts"),
        _note(summary.get("dropped_too_long", 0), "too long, left out"),
        _note(summary.get("dropped_refused_by_template", 0), "refused by the chat template, left out"),
    ]
    read = f"{summary['rows_read']} rows read, " if "rows_read" in summary else ""
    _show(f"prompts: {read}{rows[TRAIN]} to train on, {rows[HELDOUT]} held out", notes)


def _first(what: str, which: str) -> bool:
    """Whether this process sees it for the first time."""
    new = (what, which) not in _done
    _done.add((what, which))
    return new


def _note(count: int, what: str) -> str:
    return f"{count} {what}" if count else ""


def _show(line: str, notes: list[str]) -> None:
    console.print("; ".join([line, *filter(None, notes)]), soft_wrap=True, markup=False, highlight=False)
