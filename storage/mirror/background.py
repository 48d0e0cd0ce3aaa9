"""Pushing while a run works: a thread that looks for finished stages, and an end that waits for the last of them."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import UserError
from storage.mirror.index import refuse_unfinished_pull
from storage.mirror.push import Altered, Pusher, check_mirror
from storage.mirror.store import StoreFault, open_store
from storage.settings import StorageSettings

log = logging.getLogger("irepo")

_LOOK = 2.0  # seconds between two looks at the run folder
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0  # seconds after a fault, doubled each time
_LAST_TRIES = 5  # when the run has ended


class Mirror:
    """Pushes a run folder in the background. One thread at a time pushes."""

    def __init__(self, pusher: Pusher) -> None:
        self._pusher, self._stop, self._lock = pusher, threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._work, name="irepo-mirror", daemon=True)
        self._broken: UserError | None = None  # what pushing again does not change

    def start(self) -> None:
        self._thread.start()

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stop.wait(_LOOK):
            try:
                with self._lock:
                    self._pusher.push(everything=False)
                pause = _FIRST_PAUSE
            except StoreFault as fault:
                log.warning("the mirror is behind, and is tried again in %.0f s: %s", pause, fault)
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Altered as error:
                log.warning("not pushed: %s", error)
                self._stop.wait(_LONGEST_PAUSE)
            except Exception as error:
                self._broken = error if isinstance(error, UserError) else _unexpected(error, self._pusher)
                log.error("nothing more is pushed: %s", self._broken)
                return

    def finish(self, *, tries: int = _LAST_TRIES) -> None:
        """Push what is left. Raises UserError, naming the stages, when the store does not take it."""
        self._stop.set()
        self._thread.join()
        pause = _FIRST_PAUSE
        for attempt in range(1, tries + 1):
            try:
                if self._broken is not None:
                    raise self._broken
                with self._lock:
                    self._pusher.push(everything=True)
            except StoreFault as fault:
                if fault.lasting or attempt == tries:
                    raise self._incomplete(fault) from fault
                log.warning("the mirror is behind, and is tried again in %.0f s: %s", pause, fault)
                time.sleep(pause)
                pause *= 2
            except UserError as error:
                raise self._incomplete(error) from error
            else:
                return

    def abandon(self) -> None:
        """End without pushing what is left; a file that is under way is finished first."""
        self._stop.set()
        missing = self._pusher.missing()
        if missing:
            log.warning("not in the mirror: %s. To push: %s", ", ".join(missing), self._command())

    def push(self) -> None:
        """Push what is finished now. Raises UserError as `finish`."""
        with self._lock:
            self._pusher.push(everything=False)

    def has(self, stage: Path) -> bool:
        """Whether the mirror has the finished stage in this folder, as it is."""
        name = stage.relative_to(self._pusher.root).as_posix()
        return name not in self._pusher.missing()

    def _incomplete(self, error: UserError) -> UserError:
        missing = self._pusher.missing()
        what = f"not in the mirror: {', '.join(missing)}" if missing else "the mirror lacks the latest log and figures"
        return UserError(
            f"the run's own files are complete, but its mirror is not: {error.what}; {what}",
            where=error.where,
            remedy=f"{error.remedy}; then push what is missing: {self._command()}",
        )

    def _command(self) -> str:
        return f"python -m storage.mirror push {self._pusher.root} {self._pusher.store.address}"


def _unexpected(error: Exception, pusher: Pusher) -> UserError:
    return UserError(
        f"pushing failed: {type(error).__name__}: {error}",
        where=pusher.store.address,
        remedy="report this error",
    )


def check_storage(settings: StorageSettings, root: Path) -> None:
    """Raises UserError, in seconds, when the mirror of the run in `root` cannot be written or is another run's."""
    if settings.mirror is not None:
        check_mirror(root, open_store(settings.mirror, settings.endpoint_override))


@contextmanager
def mirrored(settings: StorageSettings, root: Path) -> Iterator[Mirror | None]:
    """Push the run in `root` while the body works, and what is left at its end; None without `storage.mirror`.

    Raises UserError at the end when something is missing in the mirror. When the body raises, what is finished is
    pushed, and the body's error stays; an interrupt pushes nothing more.
    """
    refuse_unfinished_pull(root)
    if settings.mirror is None:
        yield None
        return
    mirror = Mirror(Pusher(root, open_store(settings.mirror, settings.endpoint_override)))
    mirror.start()
    try:
        yield mirror
    except Exception:
        try:
            mirror.finish(tries=2)
        except UserError as error:
            log.warning("%s", error)
        raise
    except BaseException:
        mirror.abandon()
        raise
    mirror.finish()
