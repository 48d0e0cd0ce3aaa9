"""From command-line words to a checked RunConfig: `run=demo training.learning_rate=1e-4 panel=demo rounds=2`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import MarkedYAMLError

from conf.mistakes import closest, echoed, invalid, refuse_odd_numbers, search_folders, unreadable_file
from conf.schema import RunConfig
from storage.errors import UserError
from storage.plugins import Family
from tasks.training.objectives.registry import OBJECTIVES

CONF = Path(__file__).resolve().parent
PROJECT = CONF.parent

_OPTIONAL = ("run", "recipe")  # groups of which none need be chosen
_FORMS = "write key=value, +key=value for a new key of a mapping, ~key to leave one out; quote special characters"
#: `policy=<folder or id>`, `prompts=<file>` and `data=<file>` are short for a group's option plus its path.
_SHORTHANDS = {"policy": "pretrained", "prompts": "file", "data": "file"}


def compose_config(overrides: Sequence[str], check: Callable[[object], None] = lambda values: None) -> RunConfig:
    """The configuration that `overrides` ask for. Raises UserError naming the key and what was meant.

    check: called with the composed values, as plain data, before any class that they name is looked up.
    """
    words = [word for override in overrides for word in (_own_objective(override, overrides) or _expand(override))]
    for word in words:  # of an optional group Hydra takes any word, and ignores one that it has no file for
        key, _, value = word.lstrip("+").partition("=")
        if key in _OPTIONAL and value not in [*group_options(key), *_options_elsewhere(key, words)]:
            raise _no_option(key, value)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            composed = compose("config", overrides=words)
            missing = OmegaConf.missing_keys(composed)
            if missing:
                raise _missing(missing)
            values = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise (unreadable_file(words) or _composition_error(error, words)) from None
    except MarkedYAMLError:
        if (unreadable := unreadable_file(words)) is not None:
            raise unreadable from None
        raise
    check(values)
    return validate_config(values, words)


def _no_option(key: str, value: str) -> UserError:
    return UserError(
        f"there is no {key}={value}",
        where="command line",
        remedy=f"choose {key}= one of: {', '.join(group_options(key))}",
    )


def validate_config(values: Any, words: Sequence[str] = ()) -> RunConfig:
    """Plain values as a RunConfig. Raises UserError listing every field that does not fit, and where it is set."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise invalid(error, values, words) from None
    refuse_odd_numbers(values, config.model_dump(), words)
    return config


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, as it is kept with the run."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def group_options(group: str) -> list[str]:
    """Names of the YAML files of a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _options_elsewhere(group: str, words: Sequence[str]) -> list[str]:
    """Names of a group's YAML files in the user's folders, hydra.searchpath=[file://<folder>]."""
    folders = [folder / group for folder in search_folders(words)]
    return sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))


def known_keys() -> list[str]:
    """Every dotted key of RunConfig, for hints."""
    return list(_keys(RunConfig, ""))


def _keys(model: type[BaseModel], prefix: str) -> Sequence[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        discovered = [
            kind for family in field.metadata if isinstance(family, Family) for kind in family.ours().values()
        ]
        for kind in discovered or get_args(field.annotation) or [field.annotation]:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names.extend(_keys(kind, f"{prefix}{name}."))
    return names


def _expand(override: str) -> list[str]:
    key, equals, value = override.partition("=")
    if not equals and not override.startswith("~"):
        raise UserError(
            f"{override!r} is not an override",
            where="command line",
            remedy="write key=value, e.g. rounds=2 or training.learning_rate=1e-4",
        )
    if key in _SHORTHANDS and value not in group_options(key):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return [f"{key}={_SHORTHANDS[key]}", f"{key}.path='{quoted}'"]
    if "." in key and key in known_keys():
        return [f"++{override}"]  # also where no YAML file mentions it
    return [override]


def _own_objective(override: str, overrides: Sequence[str]) -> list[str] | None:
    """`objective=` with a user's class (its path, or its entry point) in place of a YAML file; None for all else."""
    key, _, value = override.partition("=")
    if key != "objective" or value in group_options(key):
        return None
    files_elsewhere = any(word.startswith("hydra.searchpath=") for word in overrides)
    if ":" in value or (not files_elsewhere and value in OBJECTIVES.names()):
        return ["~objective", f"+objective={{name: '{value}'}}"]
    return None


def _missing(keys: set[str]) -> UserError:
    short = {f"{group}.path": f"{group}=<{'folder or id' if group == 'policy' else 'file'}>" for group in _SHORTHANDS}
    return UserError(
        f"no value for {', '.join(sorted(keys))}",
        where="command line",
        remedy="give " + " ".join(short.get(key, f"{key}=...") for key in sorted(keys)) + ", or a preset: run=demo",
    )


def _composition_error(error: Exception, words: Sequence[str]) -> UserError:
    first = str(error).strip().splitlines()[0]
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if (CONF / key).is_dir() and f"'{key}/{value}'" in first:
            return _no_option(key, value)
        if f"'{key}'" in first and "override" in first:
            return UserError(
                f"unknown config key {key!r}{closest(key, words)}",
                where=f"command line, {echoed(word)}",
                remedy="python -m flows.iterate --help lists the keys, with defaults and meaning",
            )
    for word in words:
        key, _, value = word.partition("=")
        if key.lstrip("+~") in first or (value and f"'{value}'" in first):
            shown = echoed(word)
            if "Lexer" in first:
                remedy = f"put the value in quotes, and these in the shell's: \"{key}='...'\""
                return UserError(
                    "this word has characters that need quotes", where=f"command line, {shown}", remedy=remedy
                )
            what = first if shown.endswith(value) else "this word cannot be read"
            return UserError(what, where=f"command line, {shown}", remedy=_FORMS)
    return UserError(first, where="configuration", remedy=_FORMS)
