"""Start the train stage where its settings say: in this process, or in child processes, which free their memory.

torch is imported only where the training happens. A child (`python -m tasks.training.launch spec.yaml`) reports its
progress and a UserError to the parent (see tasks.child_process). Its log is train.log in the stage's folder.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.errors import UserError
from storage.manifest import Manifest, read_manifest
from storage.stage import Progress, finished, load_spec, silent
from tasks.child_process import ROOT, Child, ChildDied, ChildFailed, Message, open_channel
from tasks.training.settings import CHECKPOINTS, TrainSpec

LOG_FILE = "train.log"
_MODULE = "tasks.training.launch"


class TrainingFailed(Exception):
    """The training process ended without a manifest. The message ends with the last lines of its log."""


class TrainingDied(TrainingFailed):
    """It was killed by a signal (often: out of memory). The next attempt starts from its last checkpoint."""


class Steps(Message):
    """Progress of the training: `done` of `total` units."""

    done: int
    total: int
    unit: str


def launch(spec: TrainSpec, progress: Progress = silent) -> Manifest:
    """Run, resume, or adopt the train stage of `spec`.

    Raises UserError as `tasks.training.trainer.run` does, in whichever process that runs, and for a launcher that is
    not a command; TrainingDied when the training process was killed, TrainingFailed when it failed otherwise.
    """
    adopted = finished(spec)
    if adopted is not None:
        # They are still there if the process was killed right after it published its manifest.
        shutil.rmtree(spec.folder / CHECKPOINTS, ignore_errors=True)
        return adopted
    if not spec.settings.optimization.in_child():
        from tasks.training.trainer import run

        return run(spec, progress)
    return _run_in_child(spec, progress)


def _run_in_child(spec: TrainSpec, progress: Progress) -> Manifest:
    # Ranks find each other in this folder, which only this user can read and write.
    with TemporaryDirectory(prefix="irepo-ranks-", ignore_cleanup_errors=True) as store:
        return _run_and_wait(spec, progress, Path(store) / "store")


def _run_and_wait(spec: TrainSpec, progress: Progress, store: Path) -> Manifest:
    spec_file = spec.folder / "spec.yaml"
    spec.save(spec_file)
    child = Child(
        "the training process",
        _command(spec, spec_file, store),
        log=spec.folder / LOG_FILE,
        env=_environment(),
        cwd=None,  # paths in the spec may be relative
        takes_requests=False,
    )
    try:
        for steps in child.receive_all(Steps):
            progress(steps.done, steps.total, steps.unit)
        child.wait()
    except ChildDied as died:
        raise (TrainingDied if died.code < 0 else TrainingFailed)(str(died)) from None
    except ChildFailed as failed:
        raise TrainingFailed(str(failed)) from None
    finally:
        child.end()
    return read_manifest(spec.folder)


def _command(spec: TrainSpec, spec_file: Path, store: Path) -> list[str]:
    settings = spec.settings.optimization
    if settings.launcher is not None:
        words = shlex.split(settings.launcher)
        if not words or shutil.which(words[0]) is None:
            raise UserError(
                f"there is no command {words[0]!r}" if words else "the launcher is empty",
                where=f"training.launcher={settings.launcher!r}",
                remedy="name a command that is on PATH, such as torchrun --nproc-per-node=8, or set training.processes",
            )
        return [*words, "-m", _MODULE, str(spec_file)]
    if settings.processes > 1:
        ranks = [sys.executable, "-m", "tasks.training.local_ranks", str(settings.processes), str(store)]
        return [*ranks, _MODULE, str(spec_file)]
    return [sys.executable, "-m", _MODULE, str(spec_file)]


def _environment() -> dict[str, str]:
    """This process's, with our modules on PYTHONPATH: the child may run in another folder."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *given])}


def _child(path: Path) -> int:
    """What a child does. Returns its exit code. Errors other than UserError end it with a traceback in the log."""
    channel = open_channel()
    try:
        from tasks.training.trainer import run

        run(
            load_spec(path, TrainSpec),
            lambda done, total, unit: channel.send(Steps(done=done, total=total, unit=unit)),
        )
    except UserError as error:
        channel.fail(error)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(_child(Path(sys.argv[1])))
