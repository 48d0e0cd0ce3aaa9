"""Deployments for a work pool: `make deploy` registers those of prefect.yaml, `make worker` runs them on this machine.

python -m flows.deploy
python -m flows.deploy worker
"""

import os
import sys

from flows.help import exit_on_help, plain_help, refuse_words
from flows.operations.api import API, check_api
from flows.operations.environment import PROJECT, prepare

if __name__ == "__main__":
    exit_on_help(sys.argv[1:], plain_help("flows.deploy", __doc__ or "", "[worker]"))
prepare()

from prefect.client.orchestration import get_client  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.client.schemas.actions import WorkPoolCreate  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.settings import get_current_settings  # noqa: E402

from flows.operations.device import ensure_limit  # noqa: E402
from flows.operations.liveness import declare_zombies  # noqa: E402
from flows.show.terminal import exit_on_user_error  # noqa: E402
from storage.errors import UserError  # noqa: E402

POOL = "irepo"


def prefect(*words: str) -> None:
    """Replace this process by the `prefect` command, in the project's folder."""
    os.chdir(PROJECT)
    environment = os.environ | {"PWD": str(PROJECT)}
    os.execve(sys.executable, [sys.executable, "-m", "prefect", *words], environment)


def ensure_pool() -> None:
    """Create the process work pool unless it exists."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))


def main() -> None:
    refuse_words(sys.argv[1:], "flows.deploy", known=("worker",))
    api = get_current_settings().api.url
    if api is None:
        raise UserError(
            "no Prefect server is named",
            where="PREFECT_API_URL",
            remedy="start one (make serve; for several machines see docs/security.md) and export its address, such as "
            f"PREFECT_API_URL={API}",
        )
    check_api(api)
    if sys.argv[1:] == ["worker"]:
        ensure_limit()
        prefect("worker", "start", "--pool", POOL, "--type", "process", "--limit", "1")
    declare_zombies()
    ensure_pool()
    prefect("--no-prompt", "deploy", "--all")


if __name__ == "__main__":
    exit_on_user_error(main)
