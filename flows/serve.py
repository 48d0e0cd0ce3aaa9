"""`make serve`: Prefect's server on loopback, and the deployments irepo/iterate, irepo/nightly, irepo-compare/compare.

export PREFECT_API_URL=http://127.0.0.1:4200/api
prefect deployment run irepo/iterate
prefect deployment run irepo/iterate --param rounds=1 --param name=second --param 'overrides=["sampling.responses=8"]'
prefect deployment schedule pause irepo/nightly <id>     # ids: prefect deployment schedule ls irepo/nightly
"""

import os
from typing import cast

from flows.operations.environment import PROJECT, prepare
from flows.operations.temporary_server import API, healthy

prepare()
os.environ.setdefault("PREFECT_API_URL", API)

from prefect import serve  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.responses import DeploymentResponse  # noqa: E402
from prefect.client.schemas.schedules import CronSchedule  # noqa: E402
from prefect.deployments.runner import RunnerDeployment  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.flows import EntrypointType  # noqa: E402

from flows.compare import compare  # noqa: E402
from flows.iterate import irepo  # noqa: E402
from flows.operations.device import ensure_limit  # noqa: E402
from flows.operations.liveness import close_abandoned_rounds, declare_zombies  # noqa: E402
from flows.operations.server import Server  # noqa: E402
from flows.show.terminal import exit_on_user_error  # noqa: E402
from storage.errors import UserError  # noqa: E402

_NIGHTLY = CronSchedule(cron="0 2 * * *", timezone="UTC")


def serve_deployments() -> None:
    """Serve the deployments until interrupted. Runs share the device, so one runs at a time."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    iterate = irepo.to_deployment(
        "iterate",
        parameters={"preset": "demo"},
        description="One run, like `python -m flows.iterate`.",
        tags=["irepo"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    registered = _registered("irepo/nightly")
    nightly = irepo.to_deployment(
        "nightly",
        parameters=registered.parameters if registered else {"preset": "demo", "name": "nightly", "more_rounds": 1},
        schedules=[{"schedule": s.schedule, "active": s.active} for s in registered.schedules]
        if registered
        else [_NIGHTLY],
        description="Each night, one more round of the run `nightly`, from its last promoted policy.",
        tags=["irepo", "nightly"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    comparison = compare.to_deployment(
        "compare",
        parameters={"methods": ["irepo", "dpo"], "preset": "demo"},
        description="Compare several methods on the same prompts, seeds and panel.",
        tags=["irepo"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    print(f"UI: {os.environ['PREFECT_API_URL'].removesuffix('/api')}   in another terminal: ", end="")
    print(f"export PREFECT_API_URL={os.environ['PREFECT_API_URL']}")
    print("then: prefect deployment run irepo/iterate", flush=True)
    serve(
        cast(RunnerDeployment, iterate),
        cast(RunnerDeployment, nightly),
        cast(RunnerDeployment, comparison),
        limit=1,
        pause_on_shutdown=False,
        print_starting_message=False,
    )


def _registered(name: str) -> DeploymentResponse | None:
    """The deployment as the server has it: changes made in the UI (time, pause, parameters) survive a restart."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_deployment_by_name(name)
        except ObjectNotFound:
            return None


def main() -> None:
    os.chdir(PROJECT)
    server, api = Server(), os.environ["PREFECT_API_URL"]
    if api == API:
        server.start()
    elif not healthy(api):
        raise UserError(
            "no Prefect server answers there",
            where=f"PREFECT_API_URL={api}",
            remedy=f"start that server, or unset the variable; a server is then started at {API}",
        )
    try:
        declare_zombies()
        ensure_limit()
        close_abandoned_rounds()
        serve_deployments()
    finally:
        server.stop()


if __name__ == "__main__":
    exit_on_user_error(main)
