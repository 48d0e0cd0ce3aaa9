"""Arguments and a date in the template itself: the text is what transformers renders with them as arguments."""

import datetime
import json
import shutil
from pathlib import Path

import pytest
from pydantic import JsonValue, ValidationError
from transformers import PreTrainedTokenizerBase

from storage.errors import UserError
from storage.manifest import folder_digest
from tasks.modeling.chat_template import TEMPLATE_FILE, TemplateValues, fix_template, fixed_policy
from tasks.modeling.conversation import encode_chat
from tasks.modeling.load import check_policy_folder, load_policy, load_tokenizer
from tests.modeling.families import CHATML, families

QUESTION = [{"role": "user", "content": "What is the sum ?"}]
DAY = datetime.date(2026, 1, 31)
#: As Llama 3.2 and GPT-OSS write it.
DATED = (
    "\n  {%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}\n"
    '{% macro head() %}{{ "Today: " + strftime_now("%Y-%m-%d") + "\n" }}{% endmacro %}'
    "  {{- head() + date_string }}\n" + CHATML
)


@pytest.mark.parametrize(
    "value", [False, True, None, 3, -0.5, "a 'quoted' \"text\"\nof two lines \\ ü 😀", ["x", {"y": None}], {}]
)
def test_an_argument_in_the_template_is_one_that_is_given(value: JsonValue) -> None:
    tokenizer = families()["ChatML"].tokenizer()
    template = "\n  {% if level is defined %}{{ level | tojson }}{% endif %}\n" + CHATML
    given = tokenizer.apply_chat_template(QUESTION, chat_template=template, tokenize=False, level=value)
    tokenizer.chat_template = template
    fix_template(tokenizer, TemplateValues(arguments={"level": value}), where="here")
    assert tokenizer.apply_chat_template(QUESTION, tokenize=False) == given
    assert str(given).startswith("\n" + json.dumps(value, ensure_ascii=False))


def decoded(tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt that the policy is shown, as text."""
    return str(tokenizer.decode(encode_chat(tokenizer, QUESTION)))


def test_thinking_is_switched_off() -> None:
    tokenizer = families()["thinking"].tokenizer()
    assert not decoded(tokenizer).endswith("</think>\n\n")
    fix_template(tokenizer, TemplateValues(arguments={"enable_thinking": False}), where="here")
    assert decoded(tokenizer).endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_fixed_date_takes_the_place_of_todays() -> None:
    tokenizer = families()["ChatML"].tokenizer()
    tokenizer.chat_template = DATED
    today = str(tokenizer.apply_chat_template(QUESTION, tokenize=False))
    with pytest.raises(UserError, match="today's date"):
        encode_chat(tokenizer, QUESTION)
    fix_template(tokenizer, TemplateValues(date=DAY), where="here")
    fixed = str(tokenizer.apply_chat_template(QUESTION, tokenize=False))
    now = datetime.datetime.now()
    assert fixed == today.replace(now.strftime("%Y-%m-%d"), "2026-01-31").replace(
        now.strftime("%d %b %Y"), "31 Jan 2026"
    )
    assert "Today: 2026-01-31\n31 Jan 2026" in tokenizer.decode(encode_chat(tokenizer, QUESTION))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (TemplateValues(arguments={"enable_thinkin": False}), "no argument 'enable_thinkin'"),
        (TemplateValues(date=DAY), "writes no date"),
    ],
)
def test_values_without_effect_are_refused(values: TemplateValues, named: str) -> None:
    with pytest.raises(UserError, match=named):
        fix_template(families()["thinking"].tokenizer(), values, where="here")


def test_a_computed_layout_is_refused() -> None:
    tokenizer = families()["ChatML"].tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y' + '-%m') }}" + CHATML
    with pytest.raises(UserError, match="writes no date"):
        fix_template(tokenizer, TemplateValues(date=DAY), where="here")
    tokenizer.chat_template = "{{ strftime_now('%Y') }}" + str(tokenizer.chat_template)
    with pytest.raises(UserError, match="computes the layout"):
        fix_template(tokenizer, TemplateValues(date=DAY), where="here")


@pytest.mark.parametrize("name", ["messages", "a b", "strftime_now", ""])
def test_what_a_caller_decides_is_no_argument(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be an argument"):
        TemplateValues(arguments={name: 1})


def test_a_policy_with_fixed_arguments_has_the_same_weights(tiny_policy: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_policy, tmp_path / "source"))
    template = families()["thinking"].template
    (source / TEMPLATE_FILE).unlink()
    inline = json.loads((source / "tokenizer_config.json").read_text())
    inline["chat_template"] = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": template}]
    (source / "tokenizer_config.json").write_text(json.dumps(inline))
    for path in source.iterdir():
        path.chmod(0o444)
    values = TemplateValues(arguments={"enable_thinking": False})
    folder = fixed_policy(source, tmp_path / "run" / "policy", values, strict=True)
    check_policy_folder(folder)
    assert decoded(load_tokenizer(folder)).endswith("<think>\n\n</think>\n\n")
    for mine, theirs in zip(
        load_policy(folder, dtype="float32", device="cpu").parameters(),
        load_policy(source, dtype="float32", device="cpu").parameters(),
        strict=True,
    ):
        assert mine.equal(theirs)
    digest, written = folder_digest(folder), (folder / TEMPLATE_FILE).stat().st_mtime_ns
    assert fixed_policy(source, folder, values, strict=True) == folder
    assert (folder_digest(folder), (folder / TEMPLATE_FILE).stat().st_mtime_ns) == (digest, written)
    fixed_policy(source, folder, TemplateValues(arguments={"enable_thinking": True}), strict=True)
    assert folder_digest(folder) != digest


def test_another_policy_gets_only_what_its_template_reads(tiny_policy: Path, tmp_path: Path) -> None:
    values = TemplateValues(arguments={"enable_thinking": False}, date=DAY)
    assert fixed_policy(tiny_policy, tmp_path / "policy", values, strict=False) == tiny_policy
    with pytest.raises(UserError, match="no argument"):
        fixed_policy(tiny_policy, tmp_path / "policy", values, strict=True)
