"""A page of another server on this machine, for tests of what a stranger's page can do."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path


@contextmanager
def another_origin() -> Iterator[str]:
    """The address of a page of another server on this machine, as close to the own UI as a stranger can get."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "index.html").write_text("<!doctype html><title>another</title><body>another page")
        http = HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{http.server_port}/"
        finally:
            http.shutdown()
            http.server_close()
