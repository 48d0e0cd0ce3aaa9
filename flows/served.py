"""What a run that the API started may not say: whoever reaches the API must not get a shell or a secret by a parameter.

The command line may say all of it. Refused is what names code (a launcher, trust_remote_code, functions and classes of
the user's own, the harness's own task files) and what reads this machine's environment (api_key_env, ${oc.env:...}).
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from conf.compose import CONF, PROJECT, compose_config
from conf.leaves import leaves
from conf.schema import RunConfig
from storage.errors import UserError

#: Variables whose values served runs may send to judges as keys: names separated by commas.
KEYS = "IREPO_SERVED_KEYS"

#: What a word of a served run must not contain. (As a lookahead in the parameter's schema; the server checks it when a
#: run is created. `refuse_code` checks the configuration that comes of the words.)
FORBIDDEN = (
    r"training\.launcher",
    r"trust_remote_code",
    r"\bkind\s*[:=]\s*['\"]?function\b",
    r"\bkind\s*[:=]\s*['\"]?[\w.]+:\w",
    r"\bname\s*[:=]\s*['\"]?[\w.]+:\w",
    r"objective=[\w.]+:\w",
    r"harness\.include",
    r"pkg://",
    r"\$\{",
)
_REMEDY = "start this run from the command line: python -m flows.iterate ..."


def started_by_the_api() -> bool:
    """Whether a runner or a worker of Prefect started this process."""
    return "PREFECT__FLOW_RUN_ID" in os.environ


def compose_served(words: Sequence[str]) -> RunConfig:
    """As `compose_config`; in a process that the API started, what gives code or secrets is refused with UserError."""
    if not started_by_the_api():
        return compose_config(words)
    for word in words:
        refuse_word(word)
    with _variables_of_ours():
        return compose_config(words, check=refuse_code)


@contextmanager
def _variables_of_ours() -> Iterator[None]:
    """In the body, ${oc.env:NAME} reads only variables that conf/ names, in whatever way it is written."""
    texts = [file.read_text(encoding="utf-8") for file in CONF.rglob("*.yaml")]
    ours = {name for text in texts for name in re.findall(r"\$\{oc\.env:(\w+)", text)}

    def read(name: str, *default: str | None) -> str | None:
        if name not in ours:
            raise _refused(f"a file reads the environment variable {name}, which is refused in a run of the API", name)
        return oc.env(name, *default)

    OmegaConf.register_new_resolver("oc.env", read, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def refuse_word(word: str) -> None:
    """Raises UserError for a word that must not be in a served run, and for files that it names and that must not."""
    for pattern in FORBIDDEN:
        if found := re.search(pattern, word):
            raise _refused(f"`{found[0]}` is refused in a run that the API starts", word)
    if word.startswith("hydra.searchpath="):
        for folder in re.findall(r"file://([^,\]]+)", word):
            for file in [*Path(folder).rglob("*.yaml"), *Path(folder).rglob("*.yml")]:
                if "oc.env" in file.read_text(encoding="utf-8", errors="replace"):
                    raise _refused(f"{file} reads the environment, which is refused in a run that the API starts", word)


def refuse_code(values: object) -> None:
    """Raises UserError when composed values name code or secrets. Runs before anything that they name is imported."""
    allowed = {name.strip() for name in os.environ.get(KEYS, "").split(",")}
    for place, value in leaves(values):
        key = place.rpartition(".")[2]
        if key == "launcher" and value is not None:
            raise _refused("a launcher is a command", place)
        if key == "trust_remote_code" and value is not False:
            raise _refused("trust_remote_code runs code of a model's folder", place)
        if key == "function" and value not in _our_functions():
            raise _refused(f"the function {value} is code", place)
        if key in ("kind", "name") and isinstance(value, str) and ":" in value:
            raise _refused(f"{value} is a class of the user's own, which is code", place)
        if place.startswith("harness.include") and not _ours(Path(str(value))):
            raise _refused(f"the task files in {value} can name code", place)
        if place == "cluster.address" and value not in (None, "auto", "local"):
            raise _refused("the owner of a Ray cluster can run code in every process that joins it", place)
        if key == "endpoint_override" and value is not None:
            raise _refused("a store's endpoint gets this machine's credentials", place)
        if place == "storage.mirror" and "?" in str(value or ""):
            raise _refused("options in a mirror's address name an endpoint, which gets credentials", place)
        if key == "api_key_env" and value is not None and value not in allowed:
            raise UserError(
                f"runs that the API starts may not use the variable {value}",
                where=place,
                remedy=f"allow it where `make serve` or `make worker` is started: {KEYS}={value}",
            )


def _our_functions() -> set[str]:
    """The functions that the YAML files of conf/ name."""
    texts = [file.read_text(encoding="utf-8") for file in CONF.rglob("*.yaml")]
    return {name for text in texts for name in re.findall(r"\bfunction:\s*['\"]?([\w.]+:\w+)", text)}


def _ours(folder: Path) -> bool:
    return (PROJECT / folder).resolve().is_relative_to(CONF)


def _refused(what: str, where: str) -> UserError:
    return UserError(what, where=where, remedy=_REMEDY)
