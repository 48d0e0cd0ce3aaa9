"""What workers reserve on a Ray cluster. Too many of them are refused before any starts."""

from typing import TypedDict

from storage.errors import UserError
from tasks.cluster_settings import ClusterSettings
from tasks.generation.engines import EngineSettings

Resources = dict[str, float]  # `num_cpus` and `num_gpus` of one worker


class _Node(TypedDict):
    """What is read of Ray's description of a machine."""

    Alive: bool
    Resources: dict[str, float]


def engine_resources(engine: EngineSettings, cluster: ClusterSettings) -> Resources:
    """Of one engine. Raises UserError when the cluster never has enough for all of them."""
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = engine.tensor_parallel if has_gpus() else 0
    return fitting(engine.workers, float(gpus), cluster, where="engine.workers")


def has_gpus() -> bool:
    import ray

    return bool(ray.cluster_resources().get("GPU"))


def fitting(workers: int, gpus: float, cluster: ClusterSettings, *, where: str) -> Resources:
    """Of one of `workers` that take `gpus` each. where: the key of their number.

    Raises UserError when the cluster never has enough for all of them.
    """
    import ray

    total: dict[str, float] = ray.cluster_resources()
    every: list[_Node] = ray.nodes()
    nodes = [node for node in every if node["Alive"]]
    for name, each in (("GPU", gpus), ("CPU", cluster.cpus_per_worker)):
        places = sum(int(node["Resources"].get(name, 0) // each) for node in nodes) if each else workers
        if places < workers:
            raise UserError(
                f"{workers} workers of {each:g} {name}s do not fit: the cluster has"
                f" {total.get(name, 0):g} {name}s on {len(nodes)} nodes, room for {places} workers",
                where=f"{where}={workers}",
                remedy=f"lower {where} to {places} or less, or add machines to the cluster"
                if places
                else f"add machines with {name}s, or lower what a worker takes: {_knob(name, where)}",
            )
    return {"num_cpus": cluster.cpus_per_worker, "num_gpus": gpus}


def room_now(workers: int, each: Resources) -> bool:
    """Whether nobody else has reserved what `workers` need."""
    import ray

    free: dict[str, float] = ray.available_resources()
    return all(free.get(name, 0.0) >= workers * each[key] for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")))


def _knob(name: str, where: str) -> str:
    if name == "CPU":
        return "cluster.cpus_per_worker=..."
    return "cluster.gpus_per_worker=..." if where == "engine.workers" else f"{where.removesuffix('workers')}device=cpu"
