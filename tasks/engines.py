"""The engines of this process. They outlive stages: starting one costs more than a small round."""

from storage.stage import Spec
from tasks.cluster_settings import ClusterSettings
from tasks.generation.engines import Engine, EngineSettings

_engines: dict[str, Engine] = {}  # by their settings


def kept_engine(settings: EngineSettings, cluster: ClusterSettings, *, trust_remote_code: bool) -> Engine:
    """The engine of these settings, opened at the first request. It starts when a policy is loaded."""
    key = f"{settings.model_dump_json()}{cluster.model_dump_json()}{trust_remote_code}"
    if key not in _engines:
        _engines[key] = open_engine(settings, cluster, trust_remote_code=trust_remote_code)
    return _engines[key]


def open_engine(settings: EngineSettings, cluster: ClusterSettings, *, trust_remote_code: bool) -> Engine:
    """An engine on this machine, or the engines of a cluster. Nothing starts before it is checked or prepared."""
    if cluster.kind == "none":
        return settings.open(trust_remote_code=trust_remote_code)
    from tasks.cluster.ray_engines import RayEngines

    return RayEngines(settings, cluster, trust_remote_code=trust_remote_code)


def engine_for(spec: Spec) -> Engine | None:
    """The engine of a stage that samples. For another stage, engines free the device as their settings say: None."""
    if not spec.samples:
        pause_engines()
        return None
    engine: EngineSettings = spec.settings.engine  # type: ignore[attr-defined]
    cluster: ClusterSettings = spec.settings.cluster  # type: ignore[attr-defined]
    trust_remote_code: bool = spec.settings.trust_remote_code  # type: ignore[attr-defined]
    return kept_engine(engine, cluster, trust_remote_code=trust_remote_code)


def cluster_engine_for(spec: Spec) -> Engine | None:
    """The engines of a stage that samples on a cluster. None for others, which open their own."""
    cluster = getattr(spec.settings, "cluster", None) if spec.samples else None
    return None if cluster is None or cluster.kind == "none" else engine_for(spec)


def pause_engines() -> None:
    """Let engines free the device, as their settings say, while another stage needs it."""
    for engine in _engines.values():
        engine.pause()


def close_engines() -> None:
    """End every engine and its process group."""
    while _engines:
        _, engine = _engines.popitem()
        engine.close()
