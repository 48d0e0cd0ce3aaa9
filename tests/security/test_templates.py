"""Chat templates that do not end, write without end or reach out are refused; others are what transformers renders."""

import ast
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from storage.errors import UserError
from tasks.generation.prompt_fit import fits_context
from tasks.mixing.offline import OfflineSettings, read_offline
from tasks.modeling import template_process, templates
from tasks.modeling.conversation import RefusedConversation, check_turn_end, encode_chat, encode_reply, encode_whole
from tasks.training.conversations import encode_rows
from tests.modeling.families import CHATML, families

ROOT = Path(__file__).resolve().parents[2]
QUESTION = [{"role": "user", "content": "What is the sum ?"}]
REPLY = "The sum is 7 ."

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
#: Templates that take too much time or memory.
EXCESSIVE = {
    "loops": ENDLESS,
    "multiplication": "{{ 'x' * 10 ** 10 }}",
    "exponential": "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "output": "{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
    "padding": "{{ 'x'.ljust(10 ** 10) }}",
    "format": "{{ '{:>9999999999}'.format('x') }}",
    "indent": "{{ messages | tojson(indent=10 ** 9) }}",
    "lipsum": "{{ lipsum(n=1000000) }}",
    "later": "{% if messages | length > 1 %}" + ENDLESS + "{% endif %}" + CHATML,
}
#: Templates that the sandbox or Jinja itself stops.
STOPPED = {
    "range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "recursion": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "nesting": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "file": "{% include '/etc/passwd' %}",
    "change": "{{ messages.append(1) }}",
}


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = families()["ChatML"].tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "SECONDS", 1)
    template_process._discard()


@pytest.mark.parametrize("name", EXCESSIVE)
def test_a_template_without_end_is_refused(name: str) -> None:
    tokenizer = with_template(EXCESSIVE[name])
    started = time.process_time()
    with pytest.raises(UserError, match=r"the chat template (takes more than|writes more than)") as refusal:
        encode_whole(tokenizer, QUESTION, REPLY)
    assert not isinstance(refusal.value, RefusedConversation), "a run must not drop its prompts one by one"
    assert "chat_template.jinja" in refusal.value.remedy
    assert time.process_time() - started < 1, "it is not this process that works"
    assert encode_chat(with_template(CHATML), QUESTION), "the next template is rendered"


@pytest.mark.parametrize("name", STOPPED)
def test_a_template_that_reaches_out_is_refused(name: str) -> None:
    with pytest.raises(RefusedConversation, match="the chat template refuses this conversation"):
        encode_chat(with_template(STOPPED[name]), QUESTION)


def test_a_template_that_is_too_long_is_not_read() -> None:
    with pytest.raises(UserError, match="characters long"):
        encode_chat(with_template("x" * (template_process.LONGEST_TEMPLATE + 1)), QUESTION)


def offline_rows(tokenizer: PreTrainedTokenizerFast, folder: Path) -> object:
    path = folder / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    return read_offline(OfflineSettings(path=path, share=0.5, p_hat=0.9), tokenizer)


USES: dict[str, Callable[[PreTrainedTokenizerFast, Path], object]] = {
    "preflight": lambda tokenizer, _: check_turn_end(tokenizer, stop=[]),
    "prompts": lambda tokenizer, _: fits_context(
        [{"messages": QUESTION, "source": "a:1"}], tokenizer, context=99, max_tokens=1, drop=True, drop_refused=True
    ),
    "replies": lambda tokenizer, _: encode_reply(tokenizer, QUESTION, REPLY),
    "reward models": lambda tokenizer, _: encode_whole(tokenizer, QUESTION, REPLY),
    "supervised rows": lambda tokenizer, _: encode_rows(tokenizer, [{"prompt": "a", "completion": "b"}], 99),
    "offline rows": offline_rows,
}


@pytest.mark.parametrize("use", USES)
def test_it_is_refused_wherever_a_template_is_rendered(use: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the chat template writes more than"):
        USES[use](with_template(EXCESSIVE["multiplication"]), tmp_path)


def test_templates_are_rendered_nowhere_else() -> None:
    """The benchmark is a script without irepo."""
    places = set()
    for top in ("flows", "tasks", "storage", "conf", "benchmarks", "examples"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                if name in ("apply_chat_template", "render_jinja_template", "from_string", "chat"):
                    places.add((path.relative_to(ROOT).as_posix(), name))
    assert {place for place in places if place[1] != "chat"} == {
        ("tasks/modeling/conversation.py", "apply_chat_template"),
        ("tasks/modeling/template_worker.py", "from_string"),
        ("benchmarks/round/plain.py", "apply_chat_template"),
    }


SPECIAL = {
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "blocks": "  {% if true %}\n  a\n  {% endif %}\n{{ eos_token }}{{ bos_token }}\n",
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ {'ü': '<'} | tojson(ensure_ascii=true) }}",
    "undefined": "{{ tools }}{{ documents }}{{ nothing is defined }}{{ nothing }}{{ tools is defined }}",
    "unicode": "\u00fc\u2028{{ '\\u00e9' }}{{ messages[0].content | upper }}",
}


@pytest.mark.parametrize("name", [*families(), *SPECIAL])
def test_a_text_is_what_transformers_renders(name: str) -> None:
    tokenizer = families()[name].tokenizer() if name in families() else with_template(SPECIAL[name])
    turns = [*QUESTION, {"role": "assistant", "content": 'It is "7" \ud800 < ü\n '}]
    for messages, prompt in ((QUESTION, True), (QUESTION, False), (turns, False)):
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        given = templates.render(tokenizer.get_chat_template(), tokenizer.special_tokens_map, [(messages, prompt)])
        assert given == [wanted]


def test_texts_that_were_rendered_ahead_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    chats = [([{"role": "user", "content": f"{number} ahead"}], True) for number in range(250)]
    templates.render_ahead(CHATML, {}, chats)
    monkeypatch.setattr(templates, "rendered", None)
    for number, chat in enumerate(chats):
        (text,) = templates.render(CHATML, {}, [chat])
        assert f"{number} ahead" in text


def test_an_ended_process_is_replaced() -> None:
    assert encode_chat(with_template(CHATML), [{"role": "user", "content": "one"}])
    process = template_process._process
    assert process is not None
    process._process.kill()
    assert encode_chat(with_template(CHATML), [{"role": "user", "content": "another"}])


def test_other_libraries_render_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the processes of lm-eval and of the judge server."""
    from transformers.utils import chat_template_utils

    wanted = with_template(CHATML).apply_chat_template(QUESTION, tokenize=False)
    monkeypatch.setattr(chat_template_utils, "_compile_jinja_template", chat_template_utils._compile_jinja_template)
    templates.bound_transformers()
    assert with_template(CHATML).apply_chat_template(QUESTION, tokenize=False) == wanted
    begun = with_template(CHATML).apply_chat_template(
        [*QUESTION, {"role": "assistant", "content": "It"}], tokenize=False, continue_final_message=True
    )
    assert str(begun).endswith("assistant\nIt")
    assert with_template("{{ strftime_now('%Y') }}").apply_chat_template(QUESTION, tokenize=False) == time.strftime(
        "%Y"
    )
    with pytest.raises(UserError, match="writes more than"):
        with_template(EXCESSIVE["multiplication"]).apply_chat_template(QUESTION, tokenize=False)


def test_the_worker_opens_no_file() -> None:
    """Were there a way out of the sandbox, it would lead to little."""
    code = "from tasks.modeling import template_worker as worker; worker._forbid_files(); open('/etc/passwd')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "Too many open files" in result.stderr
