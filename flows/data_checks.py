"""The data that a run reads, before anything is paid for: an offline set is read whole, and what was read is shown."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from flows.overwrite import refuse_overwrite
from flows.plan import Plan
from flows.show.terminal import console
from flows.specs import data_spec
from storage.artifact import Artifact
from storage.manifest import Manifest
from storage.stage import keyed
from tasks.generation.encode import context_length
from tasks.generation.prompts import HELDOUT, TRAIN
from tasks.mixing.data import PAIRS, DataSpec, run_data
from tasks.mixing.encode import OfflineCounts
from tasks.mixing.offline import read_offline
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
    _show(f"offline set: {counts.rows} rows read", _repeats(asdict(counts)))


def publish_data(plan: Plan, data: Artifact) -> DataSpec:
    """Read the preference set of offline training and publish its pairs. data: the file, folder or hub data set.

    Raises UserError with the file and row of a fault, and as `refuse_overwrite`.
    """
    settings, trust = plan.config.data, plan.config.policy.trust_remote_code
    assert settings is not None
    context = context_length(plan.initial.path, trust_remote_code=trust)
    spec = data_spec(plan, settings, data, context=context)
    refuse_overwrite(plan, [spec])
    manifest = run_data(spec)
    if _first("data", f"{spec.folder} {manifest.digest}"):
        found = manifest.summary
        _show(
            f"preference set: {found['rows']} pairs read, {manifest.rows[PAIRS]} kept",
            [
                *_repeats(found),
                _note(found.get("dropped_too_long", 0), "longer than the policy's context, left out"),
                _note(found.get("dropped_refused_by_template", 0), "refused by the chat template, left out"),
                _note(found.get("p_hat_from_scores", 0), "with P from scores"),
                _note(
                    found.get("p_hat_from_setting", 0), f"with neither p_hat nor scores: data.p_hat={settings.p_hat:g}"
                ),
                _note(found.get("p_hat_from_ties", 0), "ties, which hard labels leave out"),
            ],
        )
    return spec


def _repeats(counts: Mapping[str, int]) -> list[str]:
    return [
        _note(counts["equal"], "left out, because both responses are equal"),
        _note(counts["repeated"], "the same as an earlier pair"),
        _note(counts["contradicted"], "an earlier pair the other way round"),
    ]


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
