"""Arguments of a chat template, and the date that it writes, fixed in the template itself.

Many templates take arguments (Qwen3's enable_thinking, GPT-OSS's reasoning_effort) or write today's date. Every program
that renders a template would have to be given the same arguments: the sampler, the trainer, judges, lm-eval, and
whoever serves the policy later. So they are written at the beginning of the template, as `{% set name = value %}`, and
the date as a macro in place of the function strftime_now. The template is then part of the policy like its weights.
"""

import datetime
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from storage.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_FILE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_CLOCK = re.compile(r"\bstrftime_now\s*\(\s*(?:'([^'\\]*)'|\"([^\"\\]*)\")\s*\)")
_GIVEN = ("messages", "add_generation_prompt", "strftime_now")  # what a caller of a template decides


def _check_names(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name in arguments:
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in _GIVEN:
            raise ValueError(f"{name!r} cannot be an argument of a chat template")
    return arguments


#: A field with arguments by name.
TemplateArguments = Annotated[dict[str, JsonValue], AfterValidator(_check_names)]


class TemplateValues(BaseModel):
    """What is fixed in a chat template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arguments: TemplateArguments = Field({})
    date: datetime.date | None = None  # instead of today's

    def __bool__(self) -> bool:
        return bool(self.arguments) or self.date is not None

    def written_into(self, template: str, *, where: str) -> str:
        """`template` with these values. Raises UserError for an argument or a date that it does not read."""
        for name in self.arguments:
            if not re.search(rf"\b{name}\b", template):
                raise UserError(
                    f"the chat template has no argument {name!r}",
                    where=where,
                    remedy="remove it from template_arguments, or correct its name: the template says what it reads",
                )
        lines = [f"{{% set {name} = {_literal(value)} %}}" for name, value in self.arguments.items()]
        if self.date is not None:
            lines.append(_calendar(template, self.date, where=where))
        # Without its line break a template's first line would not be trimmed as before.
        return "".join(lines) + "\n" + template if lines else template

    def known_to(self, template: str) -> "TemplateValues":
        """Those that `template` reads."""
        arguments = {name: value for name, value in self.arguments.items() if re.search(rf"\b{name}\b", template)}
        return TemplateValues(arguments=arguments, date=self.date if "strftime_now" in template else None)


class TemplateSettings(BaseModel):
    """Settings of whatever renders the chat template of a model."""

    template_arguments: TemplateArguments = Field({})  # of the chat template, such as {enable_thinking: false}
    template_date: datetime.date | None = None  # for a chat template that writes today's date

    @property
    def template_values(self) -> TemplateValues:
        return TemplateValues(arguments=self.template_arguments, date=self.template_date)


def fix_template(tokenizer: "PreTrainedTokenizerBase", values: TemplateValues, *, where: str) -> None:
    """Write `values` into the tokenizer's chat template. Raises UserError as `written_into`, and without a template."""
    if not values:
        return
    if tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template, so it takes no arguments", where=where, remedy="remove the arguments"
        )
    tokenizer.chat_template = values.written_into(tokenizer.get_chat_template(), where=where)


def check_template(folder: Path, values: TemplateValues, *, where: str) -> None:
    """Refuse, without loading anything, values that the chat template in `folder` does not read: UserError."""
    if values:
        values.written_into(_template_of(folder), where=where)


def fixed_policy(folder: Path, output: Path, values: TemplateValues, *, strict: bool) -> Path:
    """`output`: a folder like the policy in `folder`, except that `values` are written into its chat template.

    Its other files are links to those of `folder`. Without strict, values that the template does not read are left out.
    Returns `folder` when there is nothing to write. Raises UserError as `written_into`.
    """
    template = _template_of(folder)
    values = values if strict else values.known_to(template)
    if not values:
        return folder
    text = values.written_into(template, where=str(folder))
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    links = {name: (folder / name).absolute() for name in files if name != Path(TEMPLATE_FILE)}
    if not _is_made(output, links, text):
        temporary = output.with_name(f".{output.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        for name, target in links.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).symlink_to(target)
        (temporary / TEMPLATE_FILE).write_text(text, encoding="utf-8")
        shutil.rmtree(output, ignore_errors=True)
        temporary.replace(output)
    return output


def _is_made(output: Path, links: Mapping[Path, Path], text: str) -> bool:
    template = output / TEMPLATE_FILE
    if not template.is_file() or template.read_text(encoding="utf-8") != text:
        return False
    found = {path.relative_to(output): path.readlink() for path in output.rglob("*") if path.is_symlink()}
    return found == links


def _template_of(folder: Path) -> str:
    """The chat template of a policy's folder (checked by check_policy_folder)."""
    file = folder / TEMPLATE_FILE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    inline = json.loads((folder / _CONFIG).read_text(encoding="utf-8")).get("chat_template")
    if isinstance(inline, list):
        inline = next((entry["template"] for entry in inline if entry["name"] == "default"), None)
    if not isinstance(inline, str):
        raise UserError(
            "the policy's tokenizer has no default chat template",
            where=str(folder / _CONFIG),
            remedy=f"write the template that is meant to {TEMPLATE_FILE} in this folder",
        )
    return inline


def _literal(value: JsonValue) -> str:
    """`value` in Jinja's notation."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _calendar(template: str, date: datetime.date, *, where: str) -> str:
    """A macro strftime_now that writes `date` in the layouts that the template asks for."""
    layouts = sorted({single or double for single, double in _CLOCK.findall(template)})
    if not layouts or len(_CLOCK.findall(template)) != len(re.findall(r"\bstrftime_now\s*\(", template)):
        raise UserError(
            "the chat template writes no date" if not layouts else "the chat template computes the layout of its date",
            where=where,
            remedy="remove template_date"
            if not layouts
            else "write the date into the template, and remove template_date",
        )
    written: dict[str, JsonValue] = {layout: date.strftime(layout) for layout in layouts}
    return (
        f"{{% set irepo_dates = {_literal(written)} %}}"
        "{% macro strftime_now(layout) %}{{ irepo_dates[layout] }}{% endmacro %}"
    )
