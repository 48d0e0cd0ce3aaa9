"""Which rounds keep their policies: `storage.keep_policies`."""

from collections.abc import Sequence
from pathlib import Path

from flows.chain import chain_of, promoted
from flows.plan import Plan
from flows.round import play_round
from flows.show.terminal import console
from flows.stages import ListedStages
from storage.artifact import artifacts
from storage.display import size
from storage.manifest import BrokenManifest, Manifest, read_manifest
from storage.mirror.background import Mirror
from storage.retention import POLICY, remove_policy, removed_bytes
from tasks.evaluation.record import RoundRecord


def free_policies(
    plan: Plan, rounds: Sequence[RoundRecord], mirror: Mirror | None, *, last: bool = False
) -> list[RoundRecord]:
    """Remove the policies that `storage.keep_policies` does not keep; returns the records with what that freed.

    Kept in any case: the last promoted policy, and what the next round reads. With a mirror, a policy that the mirror
    does not have yet is left for later; last: there is no later, so what is finished is pushed first.
    """
    settings = plan.config.storage
    if settings.last_policies is not None and rounds[-1].decision is not None:
        if last and mirror is not None:
            mirror.push()
        kept = {promoted(rounds).round, *range(rounds[-1].round + 1 - settings.last_policies, rounds[-1].round + 1)}
        read = read_next(plan, rounds)
        for record in rounds[1:]:
            for stage, manifest in policy_stages(plan, record.round):
                if record.round in kept or stage / POLICY in read or (mirror is not None and not mirror.has(stage)):
                    continue
                _remove(stage, manifest, settings.keep_policies, mirrored=mirror is not None)
    return [record.freeing(freed_bytes(plan, record.round)) for record in rounds]


def _remove(stage: Path, manifest: Manifest, kept: str, *, mirrored: bool) -> None:
    files = [(entry.path, entry.bytes) for entry in manifest.files]
    freed = remove_policy(stage, files, why=f"storage.keep_policies={kept}")
    if freed:
        where = "; the mirror keeps it" if mirrored else ""
        console.print(f"removed {stage / POLICY}: {size(freed)} freed (keep_policies={kept}){where}", soft_wrap=True)


def read_next(plan: Plan, rounds: Sequence[RoundRecord]) -> set[Path]:
    """The folders of policies that the round after `rounds` reads."""
    stages = ListedStages()
    play_round(stages, plan, rounds[-1].round + 1, chain_of(rounds))
    return {
        made.path
        for spec in stages.specs
        for name in type(spec).model_fields
        for made in artifacts(name, getattr(spec, name)).values()
    }


def policy_stages(plan: Plan, number: int) -> list[tuple[Path, Manifest]]:
    """The finished stages of a round that made a policy."""
    found = []
    for folder in sorted(plan.layout.round(number).glob("*")):
        try:
            manifest = read_manifest(folder, check_files=False)
        except (BrokenManifest, NotADirectoryError):
            continue
        if any(entry.path.startswith(f"{POLICY}/") for entry in manifest.files):
            found.append((folder, manifest))
    return found


def freed_bytes(plan: Plan, number: int) -> int:
    """Bytes of a round's policies that were removed."""
    return sum(removed_bytes(stage) for stage, _ in policy_stages(plan, number))
