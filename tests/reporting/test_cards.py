"""Cards of made-up runs, what reads them, and pushing to a stand-in of the hub's API on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from huggingface_hub import DatasetCard, HfApi, ModelCard

from storage.errors import UserError
from storage.manifest import folder_digest
from tasks.evaluation.gate import Decision
from tasks.reporting.cards import hub
from tasks.reporting.cards.hub import push
from tasks.reporting.cards.write import write_cards
from tests.reporting.made_up_run import HOSTILE, MadeUpRun

PROMOTE, BACK = Decision(action="promote", by="none"), Decision(action="roll back", by="human", note=HOSTILE)


class Hub:
    """Remembers what was sent: requests (method, path) and committed files by repository."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.refuses = False

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, object]]:
        path = path.partition("?")[0]
        self.requests.append((method, path))
        if self.refuses:
            return 403, {"error": "you may not write here"}
        if path == "/api/repos/create":
            made = json.loads(body)
            self.created.append(made)
            kind = "" if made.get("type", "model") == "model" else f"{made['type']}s/"
            return 200, {"url": f"https://huggingface.co/{kind}{made['organization']}/{made['name']}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        kind, owner, name, *rest = path.removeprefix("/api/").split("/")
        if rest[:1] == ["preupload"]:
            named = [file["path"] for file in json.loads(body)["files"]]
            regular = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return 200, {"files": [{"path": each} | regular for each in named]}
        if rest[:1] == ["commit"]:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            contents = {file["path"]: base64.b64decode(file["content"]) for file in files}
            self.files.setdefault(f"{kind}/{owner}/{name}", {}).update(contents)
            return 200, {
                "commitUrl": f"https://huggingface.co/{owner}/{name}/commit/1",
                "commitOid": "1",
                "success": True,
            }
        return 200, {"id": f"{owner}/{name}", "sha": "0" * 40, "siblings": [], "private": True}


@pytest.fixture
def server() -> Iterator[tuple[Hub, HfApi]]:
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            made.tokens.add(self.headers.get("Authorization"))
            code, answer = made.answer(self.command, self.path, body)
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_HEAD = handle_any

        def log_message(self, *arguments: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield made, HfApi(endpoint=f"http://127.0.0.1:{listening.server_port}", token="hf_secret")
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def run(tmp_path: Path) -> MadeUpRun:
    """Two rounds with policies, the second one rolled back."""
    made = MadeUpRun(tmp_path / "made", judges=("truth", "held-out"), text=HOSTILE)
    made.evaluate(0)
    for number, decision in ((1, PROMOTE), (2, BACK)):
        made.round(number, base=number - 1, decision=decision)
        policy = made.root / f"round-{number:02d}" / "train" / "policy"
        policy.mkdir()
        (policy / "config.json").write_text(json.dumps({"round": number}))
        (policy / ".hidden").write_text("x")
    return made


def test_cards_have_metadata_that_the_hub_reads_and_figures_with_intervals(run: MadeUpRun) -> None:
    written = write_cards(run.root)
    assert [path.relative_to(run.root).as_posix() for path in written] == [
        "round-01/train/policy/README.md", "round-01/label/README.md",
        "round-02/train/policy/README.md", "round-02/label/README.md",
    ]  # fmt: skip
    card = ModelCard.load(written[0])
    assert card.data.license == "other"
    assert card.data.license_name == "not-stated"
    assert card.data.library_name == "transformers"
    assert card.data.base_model is None  # a folder, not an id
    assert {result.metric_name for result in card.data.eval_results} >= {"win rate against initial, by truth"}
    rate = run.evaluate(1)["win_rate"]["initial"]["truth"]
    assert f"| {rate['mean']:.3f} | {rate['low']:.3f} to {rate['high']:.3f} |" in card.content
    assert "LC (minimal)" in card.content
    assert "roll back" in written[2].read_text()
    for path in written:
        text = path.read_text()
        assert "<script" not in text
        assert "<img" not in text
        assert str(run.root) not in text
    assert DatasetCard.load(written[1]).data.license == "other"


def test_licence_and_base_model_are_those_of_the_configuration(run: MadeUpRun) -> None:
    path = run.root / "config.yaml"
    config = yaml.safe_load(path.read_text()) | {"license": "apache-2.0", "policy": {"path": "someone/model"}}
    path.write_text(yaml.safe_dump(config))
    card = ModelCard.load(write_cards(run.root)[0])
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "someone/model")


def test_the_label_folder_is_a_dataset(run: MadeUpRun, tmp_path: Path) -> None:
    write_cards(run.root)
    found = datasets.load_dataset(str(run.root / "round-01" / "label"), cache_dir=str(tmp_path / "cache"))
    assert list(found) == ["train"]  # preferences alone, though votes lie beside them
    assert found["train"].num_rows == 40
    assert {"prompt", "chosen", "rejected", "p_hat"} <= set(found["train"].column_names)


def test_cards_change_no_digest(run: MadeUpRun) -> None:
    policy = run.root / "round-01" / "train" / "policy"
    before = folder_digest(policy)
    write_cards(run.root)
    assert (policy / "README.md").is_file()
    assert folder_digest(policy) == before
    written = (policy / "README.md").stat().st_mtime_ns
    write_cards(run.root)
    assert (policy / "README.md").stat().st_mtime_ns == written
    (policy / "docs").mkdir()
    (policy / "docs" / "README.md").write_text("a file like any other")
    assert folder_digest(policy) != before


def test_the_last_promoted_policy_and_all_preferences_are_pushed(run: MadeUpRun, server: tuple[Hub, HfApi]) -> None:
    hub, api = server
    push(run.root, policy="me/model", preferences="me/data", api=api)
    repositories = [(made["name"], made.get("type"), made["visibility"]) for made in hub.created]
    assert repositories == [("model", "model", "private"), ("data", "dataset", "private")]
    model, data = hub.files["models/me/model"], hub.files["datasets/me/data"]
    assert json.loads(model["config.json"]) == {"round": 1}
    assert set(model) == {"config.json", "README.md"}
    assert b"# made, round 1" in model["README.md"]
    assert set(data) == {"round-01.parquet", "round-02.parquet", "README.md"}
    splits = DatasetCard(data["README.md"].decode()).data.to_dict()["configs"][0]["data_files"]
    assert splits == [{"split": f"round_0{n}", "path": f"round-0{n}.parquet"} for n in (1, 2)]
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_hub_that_refuses_is_an_error_with_the_command_to_try_again(
    run: MadeUpRun, server: tuple[Hub, HfApi]
) -> None:
    hub, api = server
    hub.refuses = True
    with pytest.raises(UserError, match="the push to the hub failed") as caught:
        push(run.root, policy="me/model", api=api)
    assert f"python -m tasks.reporting.cards {run.root} --policy me/model" in caught.value.remedy
    assert not hub.files
    with pytest.raises(UserError, match="push to the hub failed"):
        push(run.root, policy="no such name!", api=api)
    with pytest.raises(UserError, match="push to the hub failed"):
        push(run.root, policy="me/model", api=HfApi(endpoint="http://127.0.0.1:9", token="x"))


def test_without_a_token_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="token"):
        hub.check_token("push_to_hub")
