"""Deployments for a work pool: `make deploy` registers those of prefect.yaml, `make worker` runs them on this machine.

python -m flows.deploy
python -m flows.deploy worker                # of the pool `irepo`, which runs whole runs
python -m flows.deploy worker gpu-pool       # of another pool, which runs stages: placement.train=gpu-pool
"""

import os
import re
import sys

from flows.help import exit_on_help, plain_help, refuse_words
from flows.operations.api import API, check_api
from flows.operations.environment import PROJECT, prepare

if __name__ == "__main__":
    exit_on_help(sys.argv[1:], plain_help("flows.deploy", __doc__ or "", "[worker [pool]]"))
prepare()

from prefect.client.orchestration import get_client  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.client.schemas.actions import WorkPoolCreate  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.settings import get_current_settings  # noqa: E402

from flows.operations.device import ensure_limit  # noqa: E402
from flows.operations.liveness import declare_zombies  # noqa: E402
from flows.operations.work_pool import STAGE_FLOW  # noqa: E402
from flows.show.terminal import exit_on_user_error  # noqa: E402
from storage.errors import UserError  # noqa: E402

POOL = "irepo"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def prefect(*words: str) -> None:
    """Replace this process by the `prefect` command, in the project's folder."""
    os.chdir(PROJECT)
    environment = os.environ | {"PWD": str(PROJECT)}
    os.execve(sys.executable, [sys.executable, "-m", "prefect", *words], environment)


def ensure_pool(name: str, *, runs_at_once: int | None) -> None:
    """Create the process work pool unless it exists. runs_at_once: of all its workers together; None: no limit.

    Raises UserError for a pool of another type: its workers need a deployment of their own.
    """
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type="process", concurrency_limit=runs_at_once))
            return
    if pool.type != "process":
        raise UserError(
            f"the work pool {name!r} is of type {pool.type}; this command starts workers of process pools",
            where=f"worker {name}",
            remedy="name another pool; it is created when it does not exist",
        )


def ensure_stage_deployment(pool: str) -> None:
    """Register the flow that runs single stages in a pool, for the project's folder of this machine."""
    from prefect.utilities.callables import parameter_schema

    from flows.stage import irepo_stage

    folder = str(PROJECT)
    with get_client(sync_client=True) as client:
        client.create_deployment(
            client.create_flow_from_name(STAGE_FLOW),
            pool,
            work_pool_name=pool,
            path=folder,
            entrypoint="flows/stage.py:irepo_stage",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": folder}}],
            job_variables={"env": {"PYTHONPATH": folder}},
            parameter_openapi_schema=parameter_schema(irepo_stage).model_dump_for_openapi(),
            enforce_parameter_schema=True,
            tags=["irepo", "stage"],
            description="One stage of a run that has placement= for this pool.",
        )


def main() -> None:
    words = sys.argv[1:]
    pool = words[1] if words[:1] == ["worker"] and len(words) == 2 and _NAME.fullmatch(words[1]) else POOL
    refuse_words([word for word in words if word != pool], "flows.deploy", known=("worker",))
    api = get_current_settings().api.url
    if api is None:
        raise UserError(
            "no Prefect server is named",
            where="PREFECT_API_URL",
            remedy="start one (make serve; for several machines see docs/security.md) and export its address, such as "
            f"PREFECT_API_URL={API}",
        )
    check_api(api)
    if words:
        if pool != POOL:
            declare_zombies()
            ensure_pool(pool, runs_at_once=None)
            ensure_stage_deployment(pool)
        ensure_limit()
        prefect("worker", "start", "--pool", pool, "--type", "process", "--limit", "1")
    declare_zombies()
    ensure_pool(POOL, runs_at_once=1)
    prefect("--no-prompt", "deploy", "--all")


if __name__ == "__main__":
    exit_on_user_error(main)
