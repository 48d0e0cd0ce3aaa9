"""Helpers of the human tests: comparisons, hand-written votes, and the page's server in a thread."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.panel.annotators.human import HumanSettings
from tasks.panel.annotators.protocol import Comparison, Response
from tasks.panel.humans.batch import Batch, export
from tasks.panel.humans.server import VoteServer


def response(prompt: str, index: int, text: str) -> Response:
    return Response(prompt, "policy", index, [{"role": "user", "content": f"ask {prompt}"}], None, None, text, True)


def comparison(prompt: str, a: str, b: str) -> Comparison:
    return Comparison(response(prompt, 0, a), response(prompt, 1, b))


def comparisons(count: int, each: int = 1) -> list[Comparison]:
    """`each` comparisons of each of `count` prompts; their texts name them."""
    return [comparison(f"p{p}", f"one {p}.{k}", f"other {p}.{k}") for p in range(count) for k in range(each)]


def settings(**fields: Any) -> HumanSettings:
    return HumanSettings(kind="human", **fields)


def exported(folder: Path, count: int, **fields: Any) -> Batch:
    return export(settings(**fields), "people", folder, comparisons(count))[0]


def write(path: Path, *votes: dict[str, Any] | str) -> None:
    lines = [vote if isinstance(vote, str) else json.dumps(vote) for vote in votes]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def serving(root: Path, port: int = 0) -> Iterator[VoteServer]:
    server = VoteServer(root, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
