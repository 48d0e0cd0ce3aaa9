"""The few functions of Ray that irepo calls, with a thread in place of each worker's process.

It shows how workers are checked, replaced and ended, in a second and on any machine. Ray itself is in
test_ray_engines.py.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_futures
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class GetTimeoutError(RayError, TimeoutError):
    pass


class Ref:
    def __init__(self, future: "Future[Any]") -> None:
        self._future = future

    def future(self) -> "Future[Any]":
        return self._future


class Method:
    def __init__(self, actor: "Actor", name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> Ref:
        return self._actor.call(self._name, arguments)


class Actor:
    """A handle: `handle.method.remote(...)` runs in the actor's thread, one call after the other."""

    def __init__(self, thing: object, *, placed: bool) -> None:
        self._thing, self._placed = thing, placed
        self._thread = ThreadPoolExecutor(1)
        self._calls: list[Future[Any]] = []
        self.dead = False

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)

    def call(self, name: str, arguments: Sequence[Any]) -> Ref:
        future: Future[Any] = Future()
        self._calls.append(future)
        if self.dead:
            future.set_exception(RayActorError("the actor is dead"))
        elif self._placed:
            self._thread.submit(self._run, future, name, arguments)
        return Ref(future)

    def _run(self, future: "Future[Any]", name: str, arguments: Sequence[Any]) -> None:
        try:
            result = getattr(self._thing, name)(*arguments)
        except Exception as error:
            if not future.done():
                future.set_exception(RayTaskError(error))
        else:
            if not future.done():
                future.set_result(result)

    def die(self) -> None:
        self.dead = True
        for future in self._calls:
            if not future.done():
                future.set_exception(RayActorError("the actor's process was killed"))


class Cluster:
    """Made-up nodes, and every actor that was made on them."""

    def __init__(self, nodes: Sequence[dict[str, float]], places: int = 1000) -> None:
        self.nodes, self.places = nodes, places
        self.actors: list[Actor] = []
        self.options: list[dict[str, Any]] = []

    @property
    def living(self) -> list[Actor]:
        return [actor for actor in self.actors if not actor.dead]

    def module(self) -> ModuleType:
        """To be put in place of the module `ray`."""
        ray, exceptions = ModuleType("ray"), ModuleType("ray.exceptions")
        ray.__spec__ = ModuleSpec("ray", None)  # by which a module is known to be installed
        for error in (RayError, RayActorError, RayTaskError, GetTimeoutError):
            setattr(exceptions, error.__name__, error)
        functions: dict[str, Any] = {
            "exceptions": exceptions,
            "init": lambda **options: None,
            "shutdown": lambda: None,
            "nodes": lambda: [{"Alive": True, "Resources": node} for node in self.nodes],
            "cluster_resources": lambda: {
                name: sum(node.get(name, 0.0) for node in self.nodes) for name in ("CPU", "GPU")
            },
            "available_resources": self._available,
            "remote": self._remote,
            "get": _get,
            "wait": _wait,
            "kill": lambda actor: actor.die(),
        }
        for name, function in functions.items():
            setattr(ray, name, function)
        return ray

    def _available(self) -> dict[str, float]:
        """What living actors leave; Ray leaves out what is used up."""
        taken = [options for actor, options in zip(self.actors, self.options, strict=True) if not actor.dead]
        total = {name: sum(node.get(name, 0.0) for node in self.nodes) for name in ("CPU", "GPU")}
        free = {name: total[name] - sum(each[f"num_{name.lower()}s"] for each in taken) for name in total}
        return {name: number for name, number in free.items() if number > 0}

    def _remote(self, **options: Any) -> Callable[[type], Any]:
        cluster = self

        def decorate(kind: type) -> Any:
            class Remote:
                @staticmethod
                def remote(*arguments: Any, **named: Any) -> Actor:
                    placed = len(cluster.living) < cluster.places
                    actor = Actor(kind(*arguments, **named), placed=placed)
                    cluster.actors.append(actor)
                    cluster.options.append(options)
                    return actor

            return Remote

        return decorate


def _wait(refs: Sequence[Ref], num_returns: int, timeout: float) -> tuple[list[Ref], list[Ref]]:
    wait_futures([ref.future() for ref in refs], timeout)
    done = [ref for ref in refs if ref.future().done()]
    return done, [ref for ref in refs if ref not in done]


def _get(ref: Ref, timeout: float | None = None) -> Any:
    try:
        return ref.future().result(timeout)
    except RayError:
        raise
    except TimeoutError:
        raise GetTimeoutError("not in time") from None
