"""Flow `irepo-stage`: a worker runs one stage from the spec in its folder. A run with `placement=` starts it."""

import os
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.operations.environment import prepare

prepare()

from prefect import flow  # noqa: E402  (Prefect reads its settings as it is imported)
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.states import Failed, State  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from flows.checks import key_of  # noqa: E402
from flows.operations.device import device_held  # noqa: E402
from flows.operations.liveness import supervise_this_run  # noqa: E402
from flows.operations.run_log import run_log  # noqa: E402
from flows.operations.work_pool import REFUSAL, STAGE_FLOW, Refusal  # noqa: E402
from flows.stages import run_as_task  # noqa: E402
from storage.artifact import stage_name  # noqa: E402
from storage.errors import UserError  # noqa: E402
from storage.manifest import code_version  # noqa: E402
from storage.stage import Spec, load_any_spec  # noqa: E402
from tasks.engines import close_engines  # noqa: E402


@flow(name=STAGE_FLOW)
def irepo_stage(folder: str, key: str, commit: str) -> State[None] | None:
    """Run or adopt one stage. An error of the user's is left as an artifact, which the run reads.

    Args:
        folder: of the stage, absolute; its spec.yaml says what to do.
        key: of the stage, as the run computes it.
        commit: of the run's code.
    """
    supervise_this_run()
    try:
        spec = read_placed_spec(Path(folder), key, commit)
        with run_log(_run_folder(spec)), device_held():
            give_keys(spec.settings)
            try:
                waiting = run_as_task(spec)
            finally:
                close_engines()
    except Exception as error:
        refusal = refusal_of(error, folder)
        create_table_artifact([refusal.model_dump()], key=REFUSAL, description="Why the stage failed.")
        if isinstance(error, UserError):
            return Failed(message=refusal.what)
        raise
    return waiting


def read_placed_spec(folder: Path, key: str, commit: str) -> Spec:
    """The spec that the run wrote to `folder`. Raises UserError when this worker cannot do the same work.

    The file must belong to the user that this process runs as, and nobody else may read it. Otherwise a person who can
    only name a folder to Prefect's API could have this machine run a file that another user wrote.
    """
    path, here = folder / "spec.yaml", socket.gethostname()
    try:
        status = path.lstat()
    except OSError as error:
        raise UserError(
            f"the worker on {here} does not see the stage's folder: {error.strerror}",
            where=str(path),
            remedy="have all machines see the run folder at the same path (NFS or the like): runs=<shared folder>",
        ) from None
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(
            f"the worker on {here} runs only specs that its own user has written and nobody else can read",
            where=str(path),
            remedy="start workers as the user who starts the run, with the same user id on all machines",
        )
    if commit != code_version():
        raise UserError(
            f"the worker on {here} has other code than the run: {code_version()}, the run has {commit}",
            where=str(Path.cwd()),
            remedy="check out the same commit on that machine (git status shows changes), and start its worker again",
        )
    spec = load_any_spec(path)
    if spec.folder.resolve() != folder.resolve():
        raise UserError(
            f"the paths in the spec are relative to another folder than the worker's on {here}",
            where=str(path),
            remedy=f"start the run in {Path.cwd()}, or give it absolute paths: runs=, policy=, prompts=",
        )
    if spec.key() != key:
        raise UserError(
            f"the worker on {here} computes another key for this stage than the run",
            where=str(path),
            remedy="have the same code and the same packages (make setup) on all machines",
        )
    return spec


def give_keys(settings: BaseModel) -> None:
    """See to it that the keys of the stage's chat models are in the environment, as flows.checks.check_keys."""
    for place, variable in _key_variables(settings, "settings"):
        if not os.environ.get(variable):
            os.environ[variable] = key_of(variable, place)


def _key_variables(value: object, place: str) -> Iterator[tuple[str, str]]:
    """(place, variable) of every `api_key_env` in settings."""
    if isinstance(value, BaseModel):
        variable = getattr(value, "api_key_env", None)
        if isinstance(variable, str):
            yield place, variable
        for name in type(value).model_fields:
            yield from _key_variables(getattr(value, name), f"{place}.{name}")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _key_variables(inner, f"{place}.{name}")
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _key_variables(inner, place)


def refusal_of(error: Exception, folder: str) -> Refusal:
    """What the run shows of an error: a UserError as it is, another one with where to look."""
    if isinstance(error, UserError):
        return Refusal(what=error.what, where=error.where, remedy=error.remedy)
    return Refusal(
        what=f"{type(error).__name__}: {error}",
        where=f"{folder}, on {socket.gethostname()}",
        remedy="see the traceback in the log of this stage's run in Prefect's UI; then give the same command again: "
        "what the stage has published is kept",
    )


def _run_folder(spec: Spec) -> Path:
    return spec.folder.parents[len(Path(stage_name(spec.folder)).parts) - 1]
