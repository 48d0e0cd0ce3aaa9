"""What is checked of `placement` before a run: pools that exist, with live workers, on a server that workers share."""

import os

from conf.schema import PlacementSettings
from flows.operations.temporary_server import TEMPORARY
from flows.operations.work_pool import WorkPool
from storage.errors import UserError


def check_placement(placement: PlacementSettings) -> None:
    """Raises UserError, naming the setting, for a pool in which a stage would not run."""
    pools = placement.pools()
    if not pools:
        return
    if TEMPORARY in os.environ:
        raise UserError(
            "stages in work pools need a Prefect server that the workers share; this run has one of its own",
            where=", ".join(f"placement.{task}={pool}" for task, pool in pools.items()),
            remedy="start a server (make serve; for several machines see docs/security.md) and export PREFECT_API_URL, "
            "here and for the workers; or leave the stages here: placement=none",
        )
    checked: set[str] = set()
    for task, pool in pools.items():
        if pool not in checked:
            WorkPool(pool).check(f"placement.{task}={pool}")
            checked.add(pool)
