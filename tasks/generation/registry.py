"""Engines by the kind that their settings name; each is imported when it is asked for."""

from pathlib import Path

from tasks.generation.engines import Engine
from tasks.generation.settings import EngineSettings


def open_engine(settings: EngineSettings, *, trust_remote_code: bool = False, log: Path | None = None) -> Engine:
    """The engine that `settings.kind` names; nothing is started before its first `load`.

    `log` is where a vLLM worker writes what it has to say (None: a temporary file).
    """
    if settings.kind == "vllm":
        from tasks.generation.vllm_engine import VllmEngine

        if settings.replicas > 1:
            from tasks.generation.replicas import open_replicas

            return open_replicas(settings, trust_remote_code=trust_remote_code, log=log)
        return VllmEngine(settings, trust_remote_code=trust_remote_code, log=log)
    from tasks.generation.transformers_engine import TransformersEngine

    return TransformersEngine(settings, trust_remote_code=trust_remote_code)
