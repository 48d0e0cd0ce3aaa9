"""Have a work pool run the stage of a folder, as a run does: `python -m tests.flows.place_stage <folder> <pool>`."""

import sys
from pathlib import Path

from flows.operations.environment import prepare

prepare()

from flows.operations.run_log import run_log  # noqa: E402  (Prefect reads its settings as it is imported)
from flows.operations.work_pool import WorkPool  # noqa: E402
from flows.placement import run_in_pool  # noqa: E402
from storage.stage import load_any_spec, silent  # noqa: E402

if __name__ == "__main__":
    folder, pool = Path(sys.argv[1]), WorkPool(sys.argv[2])
    with run_log(folder.parents[1]):
        pool.check("placement")
        run_in_pool(load_any_spec(folder / "spec.yaml"), pool, silent, patience=300)
