"""Start the train stage where its settings say: in this process, or in others whose memory is freed at their end.

torch is imported only where the training happens. A child (`python -m tasks.training.launch spec.yaml`) answers with
one JSON object a line: {"done", "total", "unit"} as it goes on, {"error": {...}} for a UserError. What it and its
libraries print goes to train.log in the stage's folder.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from storage.errors import UserError
from storage.manifest import Manifest, read_manifest
from storage.stage import Progress, finished, load_spec, silent
from tasks.processes import die_with_parent, end_group, start_group
from tasks.training.settings import CHECKPOINTS, TrainSpec

LOG_FILE = "train.log"
_ROOT = Path(__file__).resolve().parents[2]
_MODULE = "tasks.training.launch"
_TAIL = 30  # lines of the log in an error


class TrainingFailed(Exception):
    """The process that trained ended without a manifest. The message ends with the tail of its log."""


class TrainingDied(TrainingFailed):
    """It was killed by a signal (often: out of memory). Started again, it goes on from its last checkpoint."""


def launch(spec: TrainSpec, progress: Progress = silent) -> Manifest:
    """Run, go on with, or adopt the train stage of `spec`.

    Raises UserError as `tasks.training.trainer.run` does, wherever that ran, and for a launcher that is no command;
    TrainingDied when a process of its own was killed, TrainingFailed when it ended for any other reason.
    """
    adopted = finished(spec)
    if adopted is not None:
        # A process that was killed after its manifest was published left them behind.
        shutil.rmtree(spec.folder / CHECKPOINTS, ignore_errors=True)
        return adopted
    if spec.settings.optimization.launch == "inline":
        from tasks.training.trainer import run

        return run(spec, progress)
    return _run_in_process(spec, progress)


def _run_in_process(spec: TrainSpec, progress: Progress) -> Manifest:
    spec_file, log_file = spec.folder / "spec.yaml", spec.folder / LOG_FILE
    spec.save(spec_file)
    command = _command(spec, spec_file)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *_python_path()])}
    with open(log_file, "wb") as log:
        process = start_group(command, stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        assert process.stdout is not None
        with process.stdout as answers:
            _follow(answers, progress)
        code = process.wait()
    finally:
        end_group(process)
    if code == 0:
        return read_manifest(spec.folder)
    tail = "\n".join(log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:])
    if code < 0:
        raise TrainingDied(f"the training process was killed by signal {-code}; {log_file} ends with:\n{tail}")
    raise TrainingFailed(f"the training process ended with exit code {code}; {log_file} ends with:\n{tail}")


def _command(spec: TrainSpec, spec_file: Path) -> list[str]:
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
        return [sys.executable, "-m", "tasks.training.torchrun", str(settings.processes), _MODULE, str(spec_file)]
    return [sys.executable, "-m", _MODULE, str(spec_file)]


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _follow(answers: IO[bytes], progress: Progress) -> None:
    """Pass the children's progress on until all have closed their end. Raises the first UserError that one reports."""
    for line in answers:
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            error = answer["error"]
            raise UserError(error["what"], where=error["where"], remedy=error["remedy"])
        progress(answer["done"], answer["total"], answer["unit"])


def _child(path: Path) -> int:
    """What the process of its own does. Returns its exit code; other errors than UserError end in the log."""
    die_with_parent()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is for the log

        def answer(**fields: Any) -> None:
            answers.write(json.dumps(fields) + "\n")
            answers.flush()

        try:
            from tasks.training.trainer import run

            run(load_spec(path, TrainSpec), lambda done, total, unit: answer(done=done, total=total, unit=unit))
        except UserError as error:
            answer(error={"what": error.what, "where": error.where, "remedy": error.remedy})
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(_child(Path(sys.argv[1])))
