"""What a served run may not say by the way: variables under another name, somebody's cluster, keys in addresses."""

from pathlib import Path

import pytest

from conf.compose import compose_config
from flows.served import compose_served
from storage.errors import UserError

RUN = ["run=demo", "name=served"]


@pytest.fixture
def by_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "4b0a1c5e-0000-4000-8000-000000000000")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


@pytest.mark.parametrize(
    "text",
    ["a: oc\nb: env\nlicense: ${${a}.${b}:HF_TOKEN}\n", 'license: "${oc.\\x65nv:HF_TOKEN}"\n'],
    ids=["put together", "escaped"],
)
def test_a_file_reads_no_variable_in_disguise(by_the_api: None, tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.yaml").write_text(f"# @package _global_\ndefaults: [/run/demo]\n{text}")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "run=mine"]
    with pytest.raises(UserError, match="HF_TOKEN, which is refused") as refused:
        compose_served(words)
    assert "hf_secret" not in str(refused.value)


def test_variables_that_our_own_files_name_are_read(by_the_api: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_ONE_URL", "http://127.0.0.1:9/v1")
    composed = compose_served([*RUN, "panel=judges"])
    assert "127.0.0.1:9" in str(composed.panel.annotators["judge-one"])
    assert "127.0.0.1:9" in str(compose_config([*RUN, "panel=judges"]).panel.annotators["judge-one"])


def test_only_the_command_line_joins_somebodys_cluster(by_the_api: None) -> None:
    words = [*RUN, "cluster=ray", "engine=transformers"]
    for address in ("ray://10.0.0.1:10001", "head:6379"):
        with pytest.raises(UserError, match="the owner of a Ray cluster can run code"):
            compose_served([*words, f"cluster.address='{address}'"])
    assert compose_served(words).cluster.address == "auto"


@pytest.mark.parametrize("word", ["storage.mirror='s3://KEY:hidden@bucket/run'", "storage.mirror='gs://hidden@b/run'"])
def test_a_key_in_a_mirrors_address_is_refused_and_not_repeated(word: str) -> None:
    with pytest.raises(UserError, match="contains a user or a key") as refused:
        compose_config([*RUN, word])
    assert "hidden" not in str(refused.value)
    compose_config([*RUN, "storage.mirror='abfss://box@account.dfs.core.windows.net/run'"])
