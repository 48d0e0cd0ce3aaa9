"""Task `generate`: the current policy writes m responses to each prompt of the round."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.generation.engines import Engine, EngineDied
from tasks.generation.registry import open_engine
from tasks.generation.settings import EngineSettings, GenerateSpec
from tasks.generation.stage import run
from tasks.progress import progress_bar
from tasks.report import stage_result
from tasks.retry import died

#: Engines outlive tasks: starting one costs more than a small round. Keyed by their settings.
_engines: dict[str, Engine] = {}


def kept_engine(settings: EngineSettings, *, trust_remote_code: bool) -> Engine:
    """The engine of these settings, opened when it is first asked for (it starts when a policy is loaded)."""
    key = f"{settings.model_dump_json()}{trust_remote_code}"
    if key not in _engines:
        _engines[key] = open_engine(settings, trust_remote_code=trust_remote_code)
    return _engines[key]


def pause_engines() -> None:
    """Let engines free the device, as their settings say, while another stage needs it."""
    for engine in _engines.values():
        engine.pause()


def close_engines() -> None:
    """End every engine and its process group."""
    while _engines:
        _, engine = _engines.popitem()
        engine.close()


@task(
    name="generate",
    task_run_name="generate",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=died(EngineDied),
)
def generate(spec: GenerateSpec) -> dict[str, Any]:
    """Run or adopt the generate stage of `spec`."""
    engine = kept_engine(spec.settings.engine, trust_remote_code=spec.settings.trust_remote_code)
    with progress_bar("generate", spec.round) as progress:
        manifest = run(spec, progress, engine=engine)
    pause_engines()
    return stage_result(manifest, spec.folder)
