"""Engine settings by their `kind`: ours, and users' own."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from storage.plugins import load_plugin, plugin_kinds
from tasks.generation.engines import EngineSettings

PACKAGE = "tasks.generation.engines"
GROUP = "irepo.engines"  # entry points of installed packages
_DEFAULT = "vllm"


def engine_kinds() -> list[str]:
    """Kinds that need no dotted path: ours, and those of installed packages."""
    return plugin_kinds(PACKAGE, GROUP)


def parse_engine(values: Any) -> Any:
    """The settings of an engine, in the class that `values["kind"]` names. Raises ValueError for an unknown kind.

    What is neither a mapping nor an EngineSettings is returned as it is, for pydantic to refuse.
    """
    if not isinstance(values, Mapping):
        return values
    kind = str(values.get("kind", _DEFAULT))
    try:
        settings = load_plugin(kind, EngineSettings, package=PACKAGE, group=GROUP)
    except ValueError as error:
        raise ValueError(f"engine.kind={kind}: {error}") from None
    return settings.model_validate({**values, "kind": kind})


#: A field with the settings of any engine: validated and dumped in full, in the class of its kind.
AnyEngine = Annotated[SerializeAsAny[EngineSettings], BeforeValidator(parse_engine)]
