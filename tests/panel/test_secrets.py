"""A key in a configuration is refused, and the refusal does not repeat it."""

import pytest

from conf.compose import compose_config
from storage.errors import UserError

KEY = "sk-proj-0123456789abcdefghij"


def compose(**settings: str) -> None:
    given = ", ".join(f"{name}: {value}" for name, value in {"kind": "judge", "model": "m", **settings}.items())
    compose_config(["run=demo", "name=x", f"+panel.annotators.j={{{given}}}"])


@pytest.mark.parametrize(
    "value", [KEY, "hf_0123456789abcdefghij", "judge_key", "AKIAIOSFODNN7EXAMPLE", "'a b'", "'K=1'", "K" * 65, "''"]
)
def test_a_key_in_place_of_its_variable_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="is not the name of an environment variable") as caught:
        compose(api_key_env=value)
    assert "api_key_env" in str(caught.value)
    assert len(value) < 5 or value not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        f"{{api_key: {KEY}}}", f"{{nested: {{Authorization: 'Bearer {KEY}'}}}}", "{password: x}", "{key: abc}",
        "{access-token: abc}", f"{{user: {KEY}}}", "{extra_headers: {X-Team: a}}", f"{{list: [1, {KEY}]}}",
        "{client_secret: x}",
    ],
)  # fmt: skip
def test_a_key_among_the_fields_of_requests_is_refused(body: str) -> None:
    with pytest.raises(UserError, match="looks like a secret") as caught:
        compose(extra_body=body)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", [f"'https://name:{KEY}@judge.example/v1'", f"'https://judge.example/v1?key={KEY}'"])
def test_a_key_in_an_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="base_url") as caught:
        compose(base_url=url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "word",
    [f"panel.annotators.j.api_key_env={KEY}", f"panel.annotators.j.extra_body={KEY}",
     f"panel.annotators.j.extra_body={{api_key: {KEY}}}", f"+panel.annotators.k={{kind: judgge, api_key_env: {KEY}}}"],
)  # fmt: skip
def test_a_key_in_a_word_of_the_command_line_is_not_repeated(word: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config(["run=demo", "name=x", "+panel.annotators.j={kind: judge, model: m}", word])
    assert KEY not in str(caught.value)


def test_ordinary_settings_pass() -> None:
    compose(api_key_env="JUDGE_KEY", extra_body="{seed: 0, stop_token_ids: [1], logit_bias: {a: 1}, user: team-7}")
