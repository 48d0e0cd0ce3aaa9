"""The folder of runs in a browser: only with the secret, only what is in it, and nothing that runs."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from flows.operations.guard import Guard
from flows.operations.run_files import FILES, SESSION, RunFiles
from flows.show import links

SECRET = "irepo:a-secret-of-this-test"
LOGGED_IN = ("irepo", SECRET.partition(":")[2])


async def prefect(scope: Scope, receive: Receive, send: Send) -> None:
    """In the place of Prefect's application: it answers 418."""
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "mine"
    (run / "round-01").mkdir(parents=True)
    (run / "report.html").write_text("<h1>Report</h1><script>alert(1)</script>")
    (run / "run.log").write_text("a line\n")
    (run / "a b&<c>.json").write_text("{}")
    (run / "round-01" / "votes.parquet").write_bytes(b"PAR1")
    (run / ".owner").write_text("1")
    (tmp_path / "outside.txt").write_text("not yours")
    (tmp_path / "runs-of-others").mkdir()
    (tmp_path / "runs-of-others" / "x.txt").write_text("not yours")
    (run / "out").symlink_to(tmp_path / "outside.txt")
    (run / "others").symlink_to(tmp_path / "runs-of-others")
    (run / "policy").symlink_to("round-01")
    (run / "hidden").symlink_to(".owner")
    return tmp_path / "runs"


@pytest.fixture
def client(root: Path) -> TestClient:
    app = Guard(prefect, RunFiles(root, SECRET))
    return TestClient(app, base_url="http://127.0.0.1:4200", follow_redirects=False)


@pytest.mark.parametrize("path", ["", "mine/", "mine/report.html", "absent", "mine/out"])
def test_nothing_is_shown_without_the_secret(client: TestClient, path: str) -> None:
    for authorization in (
        {},
        {"Authorization": "Basic eDp5"},
        {"Cookie": "irepo_run_files=0"},
        {"Cookie": "irepo_run_files="},
    ):
        answer = client.get(FILES + path, headers=authorization)
        assert answer.status_code == 401
        assert "Report" not in answer.text


def test_who_knows_the_secret_gets_a_cookie_for_files_only(client: TestClient) -> None:
    assert client.post(SESSION).status_code == 401
    assert client.get(SESSION, auth=LOGGED_IN).status_code == 401
    answer = client.post(SESSION, auth=LOGGED_IN)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert f"Path={FILES}" in cookie
    assert "HttpOnly" in cookie
    assert SECRET not in cookie
    assert client.get(f"{FILES}mine/report.html").status_code == 200, "the cookie is sent"


def test_other_paths_are_prefects(client: TestClient) -> None:
    for path in ("/", "/api/health", "/run-filesx", "/runs"):
        assert client.get(path).status_code == 418
    assert client.get(f"{FILES}mine/", headers={"Host": "evil.example"}).status_code == 403
    foreign = {"Origin": "http://evil.example"}
    assert client.post(SESSION, auth=LOGGED_IN, headers=foreign).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "../outside.txt", "..%2foutside.txt", "%2e%2e/outside.txt", "mine/../../outside.txt",
        "mine/%2e%2e/%2e%2e/outside.txt",
        "/etc/passwd", "%2fetc/passwd", "mine/out", "mine/others/x.txt", "mine/others/", "mine/.owner", "mine/hidden",
        "../runs-of-others/x.txt", "..%5coutside.txt", "mine/%00", "mine/absent", "x" * 5000,
    ],
)  # fmt: skip
def test_nothing_outside_the_folder_and_nothing_hidden_is_shown(client: TestClient, path: str) -> None:
    answer = client.get(FILES + path, auth=LOGGED_IN)
    assert answer.status_code in (404, 418), "418: the client made it a path elsewhere"
    assert "not yours" not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("mine/report.html", "text/html; charset=utf-8"),
        ("mine/run.log", "text/plain; charset=utf-8"),
        ("mine/a%20b%26%3Cc%3E.json", "text/plain; charset=utf-8"),
        ("mine/policy/votes.parquet", "application/octet-stream"),
    ],
)
def test_a_file_has_its_type_and_runs_nothing(client: TestClient, path: str, kind: str) -> None:
    answer = client.get(FILES + path, auth=LOGGED_IN)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox ")
    assert "allow-scripts" not in policy
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert ("attachment" in answer.headers.get("content-disposition", "")) == kind.startswith("application")


def test_a_folder_lists_what_can_be_opened(client: TestClient) -> None:
    assert client.get(f"{FILES}mine", auth=LOGGED_IN).headers["location"] == f"{FILES}mine/"
    listing = client.get(f"{FILES}mine/", auth=LOGGED_IN).text
    for shown in (
        'href="./report.html"',
        'href="./round-01/"',
        'href="./policy/"',
        "a b&amp;&lt;c&gt;.json",
        "%26%3Cc%3E",
    ):
        assert shown in listing
    for missing in (".owner", "hidden", "out", "others"):
        assert f">{missing}<" not in listing
    assert 'href="./mine/"' in client.get(FILES, auth=LOGGED_IN).text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_is_written(client: TestClient, root: Path, method: str) -> None:
    before = sorted(root.rglob("*"))
    assert client.request(method, f"{FILES}mine/report.html", auth=LOGGED_IN).status_code == 405
    assert sorted(root.rglob("*")) == before


def test_links_lead_to_the_server_where_it_shows_the_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(links.ROOT, raising=False)
    assert links.address(root / "mine").startswith("file://")
    monkeypatch.setenv(links.ROOT, str(root))
    monkeypatch.setenv(links.ADDRESS, f"http://127.0.0.1:4200{FILES}")
    assert links.address(root / "mine") == f"http://127.0.0.1:4200{FILES}mine/"
    assert links.address(root / "mine" / "a b&<c>.json").endswith("/mine/a%20b%26%3Cc%3E.json")
    assert links.address(root.parent / "outside.txt").startswith("file://")
