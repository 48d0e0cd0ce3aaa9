"""`make serve`: Prefect's server on loopback, and the deployments that prefect.yaml has too.

export PREFECT_API_URL=http://127.0.0.1:4200/api PREFECT_API_AUTH_STRING="$(cat ~/.prefect/irepo-secret)"
prefect deployment run irepo/iterate
prefect deployment run irepo/iterate --param rounds=1 --param name=second --param 'overrides=["sampling.responses=8"]'
prefect deployment schedule pause irepo/nightly <id>     # ids: prefect deployment schedule ls irepo/nightly
"""

import asyncio
import os
import shlex
import sys
from types import FrameType
from typing import cast
from urllib.parse import quote

from flows.help import exit_on_help, plain_help, refuse_words
from flows.operations.api import API, check_api, check_proxies
from flows.operations.environment import PROJECT, prepare
from flows.operations.secret import CLIENT, secret_file

if __name__ == "__main__":
    exit_on_help(sys.argv[1:], plain_help("flows.serve", __doc__ or ""))
os.environ.setdefault("PREFECT_API_URL", API)
# Here and in the runs: the UI has every line; the terminal of `make serve` shows stages, tables and what went wrong.
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
prepare()

from prefect.client.orchestration import get_client  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.client.schemas.responses import DeploymentResponse  # noqa: E402
from prefect.client.schemas.schedules import CronSchedule  # noqa: E402
from prefect.context import refresh_global_settings_context  # noqa: E402
from prefect.deployments.runner import RunnerDeployment  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.flows import EntrypointType  # noqa: E402
from prefect.runner import Runner  # noqa: E402

from flows.compare import compare  # noqa: E402
from flows.iterate import irepo  # noqa: E402
from flows.operations.device import ensure_limit  # noqa: E402
from flows.operations.guard import LOGIN  # noqa: E402
from flows.operations.liveness import close_abandoned_rounds, declare_zombies  # noqa: E402
from flows.operations.prefect_server import runs_folder  # noqa: E402
from flows.operations.run_files import FILES  # noqa: E402
from flows.operations.server import Server  # noqa: E402
from flows.show.links import ADDRESS, ROOT  # noqa: E402
from flows.show.terminal import exit_on_user_error  # noqa: E402
from flows.train import irepo_train  # noqa: E402
from tasks.interrupts import Endings  # noqa: E402

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
    training = irepo_train.to_deployment(
        "train",
        description="Offline training on a preference set, like `python -m flows.train`.",
        tags=["irepo"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    comparison = compare.to_deployment(
        "compare",
        parameters={"methods": ["irepo", "dpo"], "preset": "demo"},
        description="Compare several methods on the same prompts, seeds and panel.",
        tags=["irepo"],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    _say_how_to_use()
    runner = _Runner(pause_on_shutdown=False, limit=1)
    for deployment in (iterate, nightly, training, comparison):
        runner.add_deployment(cast(RunnerDeployment, deployment))
    asyncio.run(runner.start())


class _Runner(Runner):
    """Prefect's runner; SIGTERM leaves its event loop, and its runs end as the loop is closed."""

    def handle_sigterm(self, number: int, _frame: FrameType | None = None) -> None:
        # Prefect's own handler calls a coroutine function without awaiting it, and exits with code 0.
        raise SystemExit(128 + number)


def _say_how_to_use() -> None:
    api = os.environ["PREFECT_API_URL"]
    variables = f"PREFECT_API_URL={api}"
    page = api.removesuffix("/api")
    if api == API:
        page += LOGIN
        # In the address only on a terminal: a log may be read by others.
        page += f"#{quote(os.environ[CLIENT], safe='')}" if sys.stdout.isatty() else ""
        variables += f' {CLIENT}="$(cat {shlex.quote(str(secret_file()))})"'
        if not sys.stdout.isatty():
            print(f"Log in to the UI with the text in {secret_file()}")
    print(f"UI: {page}\nin another terminal: export {variables}")
    if ADDRESS in os.environ:
        print(f"reports and other files of runs in {os.environ[ROOT]}: {os.environ[ADDRESS]}")
    print("then: prefect deployment run irepo/iterate", flush=True)


def _registered(name: str) -> DeploymentResponse | None:
    """The deployment as the server has it: changes made in the UI (time, pause, parameters) survive a restart."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_deployment_by_name(name)
        except ObjectNotFound:
            return None


def main() -> None:
    refuse_words(sys.argv[1:], "flows.serve")
    os.chdir(PROJECT)
    check_proxies()
    api = os.environ["PREFECT_API_URL"]
    if api != API:
        check_api(api)
    endings = Endings()
    endings.install()
    server = Server(endings)
    try:
        if api == API:
            os.environ[ROOT] = str(runs_folder())
            os.environ[ADDRESS] = api.removesuffix("/api") + FILES
            server.start()
            refresh_global_settings_context()
            check_api(api)
        declare_zombies()
        ensure_limit()
        close_abandoned_rounds()
        serve_deployments()
    finally:
        server.stop()


if __name__ == "__main__":
    exit_on_user_error(main)
