"""What `--help` prints: how a command is used, its groups with their options, and its keys with default and meaning.

A command calls `exit_on_help` before it prepares or starts anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from storage.display import leave
from storage.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from conf.describe import Key

_HELP = ("-h", "--help")
_WIDE = 44  # columns of a key or an option; what is longer has its meaning on the next line


def exit_on_help(words: Sequence[str], text: Callable[[Sequence[str]], str]) -> None:
    """Print `text` of the other words and exit with code 0 where `words` ask for help; otherwise do nothing."""
    if any(word in _HELP for word in words):
        leave(lambda: _shown(text([word for word in words if word not in _HELP])))


def _shown(text: str) -> int:
    print(text)
    return 0


def plain_help(module: str, about: str, arguments: str = "") -> Callable[[Sequence[str]], str]:
    """Help of a command without settings. about: its docstring. arguments: the words that it takes."""
    return lambda words: f"usage: python -m {module} {arguments}".rstrip() + f" [--help]\n\n{about.strip()}"


def run_help(
    module: str,
    about: str,
    more: Sequence[tuple[str, str]] = (),
    *,
    defaults: Mapping[str, str] = MappingProxyType({}),
    without: Sequence[str] = (),
) -> Callable[[Sequence[str]], str]:
    """Help of a command that takes the configuration of a run.

    more: words of the command itself, each with its meaning. defaults: options that the command chooses by itself,
    where they differ from conf/config.yaml. without: groups that mean nothing to the command. The words beside --help
    choose options, whose defaults are then shown, or groups, which alone are shown: `--help objective=dpo objective`.
    """

    def text(words: Sequence[str]) -> str:
        from conf.describe import groups, keys

        wanted = [word for word in words if "=" not in word]
        known = [group for group in groups() if group.name not in without]
        names = [group.name for group in known]
        if strangers := [word for word in wanted if word not in names]:
            raise UserError(
                f"there is no group {strangers[0]!r}",
                where="command line, beside --help",
                remedy=f"name one of {', '.join(names)}, or none for all",
            )
        lines = [f"usage: python -m {module} [group=option ...] [key=value ...]", "", about.strip(), ""]
        lines += _titled("words of this command", [_row(word, meaning) for word, meaning in more])
        shown = [group for group in known if not wanted or group.name in wanted]
        options: list[str] = []
        for group in shown:
            default = defaults.get(group.name, group.default)
            for option, says in group.options.items():
                options.append(_row(f"{group.name}={option}", f"{says} (default)" if option == default else says))
        lines += _titled("groups: group=option chooses a file of conf/", options)
        chosen = [*(f"{name}={option}" for name, option in defaults.items()), *words]
        described = [
            replace(key, default=defaults[key.name]) if key.name in defaults else key
            for key in keys(chosen)
            if (area := key.name.partition(".")[0]) not in without and (not wanted or area in wanted)
        ]
        lines += _titled("keys: key=default  meaning. ??? has no default", [_key(key) for key in described])
        lines.append(f"Less: python -m {module} --help <group>. Another option's keys: --help objective=dpo objective.")
        return "\n".join(lines)

    return text


def settings_help(module: str, about: str, model: "type[BaseModel]") -> Callable[[Sequence[str]], str]:
    """Help of a command whose words are the keys of one settings class."""

    def text(words: Sequence[str]) -> str:
        from conf.describe import settings_keys

        lines = [f"usage: python -m {module} [key=value ...]", "", about.strip(), ""]
        lines += _titled("keys: key=default  meaning. ??? has no default", [_key(key) for key in settings_keys(model)])
        return "\n".join(lines).rstrip()

    return text


def refuse_words(words: Sequence[str], module: str, known: Sequence[str] = ()) -> None:
    """Raises UserError for a word that a command does not know."""
    if strangers := [word for word in words if word not in known]:
        raise UserError(
            f"{strangers[0]!r} is not a word of this command",
            where="command line",
            remedy=f"leave it out; python -m {module} --help prints what there is",
        )


def _titled(title: str, rows: Sequence[str]) -> list[str]:
    return [title, *rows, ""] if rows else []


def _key(key: "Key") -> str:
    return _row(f"{key.name}={key.default}", key.meaning)


def _row(word: str, meaning: str) -> str:
    if not meaning:
        return f"  {word}"
    return f"  {word:{_WIDE}}  {meaning}" if len(word) <= _WIDE else f"  {word}\n  {'':{_WIDE}}  {meaning}"
