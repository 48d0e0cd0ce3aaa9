"""Who may use Prefect's servers: the checks of Host and Origin, the secret, the address, proxies."""

import os
import socket
import stat
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from flows.operations import api, secret
from flows.operations.guard import why_refused
from flows.operations.prefect_server import not_started, own_database
from storage.errors import UserError
from tasks.loopback import bypass_proxies, is_loopback

PORT = "4200"
OURS = {"host": f"127.0.0.1:{PORT}"}


def refused(navigates: bool = False, **headers: str) -> bool:
    given = {"host": OURS["host"]} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in given.items() if value]
    return why_refused(raw, navigates=navigates) is not None


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "[::1]:4200", "LOCALHOST:4200", "localhost:5000"])
def test_names_of_this_machine_are_served(host: str) -> None:
    assert not refused(host=host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:4200", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.7:4200", "",
     "127.0.0.1@evil.example", "evil@127.0.0.1:4200", "0.0.0.0:4200", "127.0.0.1:x"],
)  # fmt: skip
def test_a_name_that_is_made_to_point_here_is_refused(host: str) -> None:
    """DNS rebinding: the page's own name resolves to 127.0.0.1."""
    assert refused(host=host)


def test_two_hosts_are_refused() -> None:
    assert why_refused([(b"host", b"127.0.0.1:4200"), (b"host", b"evil.example")], navigates=False) is not None


@pytest.mark.parametrize("origin", ["http://127.0.0.1:4200", "http://localhost:4200"])
def test_the_own_ui_is_served(origin: str) -> None:
    assert not refused(origin=origin, sec_fetch_site="cross-site")  # localhost asks 127.0.0.1


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost", "https://127.0.0.1:4200",
     "http://127.0.0.1.evil.example:4200", "http://127.0.0.1:4200@evil.example", "file://", "http://[::1"],
)  # fmt: skip
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    assert refused(origin=origin)
    assert refused(navigates=True, origin=origin)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_page_loads_without_an_origin_is_refused(site: str) -> None:
    """Images, scripts and forms."""
    assert refused(sec_fetch_site=site, sec_fetch_mode="no-cors")
    assert refused(sec_fetch_site=site, sec_fetch_mode="navigate"), "a link into the API"
    assert not refused(navigates=True, sec_fetch_site=site, sec_fetch_mode="navigate"), "a link to the UI"
    assert refused(navigates=True, sec_fetch_site=site, sec_fetch_mode="no-cors")


def test_programs_without_a_browser_are_served() -> None:
    assert not refused()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv(secret.CLIENT, raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


def test_the_secret_is_random_stays_and_is_its_users_alone(home: Path) -> None:
    assert secret.read_secret() is None
    made = secret.make_secret()
    assert secret.make_secret() == secret.read_secret() == made
    assert len(made) > 40
    assert stat.S_IMODE(secret.secret_file().stat().st_mode) == 0o600
    assert secret.new_secret() != secret.new_secret()


@pytest.mark.parametrize("harm", ["others may read", "a link", "cut"])
def test_a_secret_that_others_may_know_is_refused(home: Path, harm: str) -> None:
    secret.make_secret()
    path = secret.secret_file()
    if harm == "others may read":
        path.chmod(0o640)
    elif harm == "a link":
        path.symlink_to(path.rename(home / "elsewhere"))
    else:
        path.write_text("")
    with pytest.raises(UserError, match="secret of Prefect's server cannot be used"):
        secret.make_secret()


@pytest.mark.parametrize(
    ("url", "sent"), [("http://127.0.0.1:4200/api", True), ("https://prefect.example/api", False), ("", False)]
)
def test_the_secret_is_sent_to_this_machine_only(
    home: Path, monkeypatch: pytest.MonkeyPatch, url: str, sent: bool
) -> None:
    made = secret.make_secret()
    monkeypatch.setenv("PREFECT_API_URL", url)
    secret.give_secret_to_client()
    assert (os.environ.get(secret.CLIENT) == made) is sent
    monkeypatch.delenv(secret.CLIENT, raising=False)


@contextmanager
def server(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """A server on loopback with these answers by path; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()


def dead_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/api"


@pytest.mark.parametrize("url", ["127.0.0.1:4200/api", "http:///api", "http://[bad/api", "ftp://127.0.0.1/api", "x"])
def test_an_address_that_is_none_is_refused(home: Path, url: str) -> None:
    with pytest.raises(UserError, match="is not the address of a server") as caught:
        api.check_api(url)
    assert caught.value.where == f"PREFECT_API_URL={url}"


def test_a_dead_address_is_one_error(home: Path) -> None:
    url = dead_address()
    with pytest.raises(UserError, match=r"no Prefect server answers there: .*refused") as caught:
        api.check_api(url)
    assert (caught.value.where, api.healthy(url)) == (f"PREFECT_API_URL={url}", False)


def test_an_address_without_api_is_put_right(home: Path) -> None:
    with server({"/api/health": (200, b"true"), "/health": (200, b"<html>the UI</html>")}) as address:
        with pytest.raises(UserError, match="ends with /api") as caught:
            api.check_api(address)
        assert caught.value.remedy == f"export PREFECT_API_URL={address}/api"


def test_another_program_is_no_prefect_server(home: Path) -> None:
    with server({}) as address, pytest.raises(UserError, match="is not Prefect's API: status 404"):
        api.check_api(f"{address}/api")


def test_a_secret_that_does_not_fit_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server({"/api/health": (200, b"true"), "/api/admin/version": (401, b"")}) as address:
        with pytest.raises(UserError, match="asks for a secret"):
            api.check_api(f"{address}/api")
        monkeypatch.setenv(secret.CLIENT, "wrong")
        with pytest.raises(UserError, match="refuses this secret"):
            api.check_api(f"{address}/api")
        assert api.asks_for_secret(f"{address}/api")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
@pytest.mark.parametrize("kept", ["", "intranet.example"])
def test_loopback_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, kept: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, dead_address().removesuffix("/api"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, kept)
    bypass_proxies()
    bypass_proxies()  # in a child, again
    assert os.environ["NO_PROXY"].split(",") == [*filter(None, [kept]), "127.0.0.1", "localhost", "::1"]
    with server({"/api/health": (200, b"true")}) as address:
        for host in ("127.0.0.1", "localhost"):
            url = f"{address.replace('127.0.0.1', host)}/api/health"
            assert httpx.get(url).status_code == 200
            assert urllib.request.urlopen(url).status == 200
        assert api.healthy(f"{address}/api")


def test_a_socks_proxy_that_no_client_can_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_spec", lambda name: None)
    monkeypatch.setenv("ALL_PROXY", "socks5://name:password@proxy.example:1080")
    with pytest.raises(UserError, match="socksio") as caught:
        api.check_proxies()
    assert caught.value.where == "ALL_PROXY=socks5://proxy.example:1080"


def test_loopback_by_its_names() -> None:
    assert all(is_loopback(f"http://{host}:1/x") for host in ("127.0.0.1", "localhost", "[::1]"))
    assert not any(is_loopback(url) for url in ("http://127.0.0.1.example", "http://[bad", "", "http://10.0.0.1"))


def test_a_database_of_a_newer_prefect_is_said(home: Path, tmp_path: Path) -> None:
    log = (tmp_path / "log").open("w+b")
    log.write(b"Traceback ...\nalembic.util.exc.CommandError: Can't locate revision identified by 'feedfacecafe'\n")
    error = not_started(log, where="http://...", how="ended with code 3", remedy="fix it")
    assert "a newer Prefect made this database" in str(error)
    assert "feedfacecafe" in error.what
    log.close()


def test_what_the_server_printed_is_in_the_error(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as log:
        log.write(b"".join(b"line %d\n" % i for i in range(40)))
        error = not_started(log, where="http://...", how="ended with code 3", remedy="fix it")
    assert error.what.splitlines() == ["Prefect's server ended with code 3", *(f"line {i}" for i in range(30, 40))]


def test_a_temporary_server_has_a_database_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_HOME", "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(name, raising=False)
    (url,) = own_database().values()
    assert url.endswith("/.prefect/temporary.db")
    monkeypatch.setenv("PREFECT_HOME", "/somewhere")
    assert own_database() == {}, "somebody who names a folder gets it"
