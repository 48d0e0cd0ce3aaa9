"""A hand-written generate stage: prompts.parquet, responses in shards and their manifest."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage.manifest import Manifest, describe_files, library_versions
from storage.schemas import PROMPTS, RESPONSES, table, write_parquet
from tasks.labeling.settings import LabelSettings, LabelSpec, PreferenceSettings
from tests.panel.chat_server import ChatServer

Texts = Mapping[str, Sequence[str]]  # prompt id -> its responses


@dataclass(frozen=True)
class World:
    """Writes inputs of the label stage below `folder`."""

    folder: Path

    def prompts(self, ids: Sequence[str], **fields: Any) -> Path:
        path = self.folder / "prompts.parquet"
        rows = [
            {"prompt_id": i, "messages": [{"role": "user", "content": f"ask {i}"}], "source": "test:1"} | fields
            for i in ids
        ]
        write_parquet(path, table(rows, PROMPTS))
        return path

    def responses(
        self,
        texts: Texts,
        *,
        name: str = "generate",
        cut: Sequence[tuple[str, int]] = (),
        shards: int = 2,
        spread: bool = True,
    ) -> Path:
        """Token ids are the text's bytes and a final 0, which a response in `cut` (prompt, index) lacks.

        spread: the rows of a prompt are in several shards, as no generate stage leaves them; else in order.
        """
        folder = self.folder / name
        rows = [
            {
                "prompt_id": prompt,
                "response_index": index,
                "prompt_ids": [7, 8, 9],
                "response_ids": [*text.encode(), *([] if (prompt, index) in cut else [0])],
                "text": text,
                "finish_reason": "length" if (prompt, index) in cut else "stop",
                "logprobs": [-1.0] * (len(text.encode()) + ((prompt, index) not in cut)),
                "seed": 5,
            }
            for prompt, responses in texts.items()
            for index, text in enumerate(responses)
        ]
        paths = [folder / f"responses-{shard:05d}.parquet" for shard in range(shards)]
        for shard, path in enumerate(paths):
            size = -(-len(rows) // shards)
            own = rows[shard::shards] if spread else rows[shard * size : (shard + 1) * size]
            write_parquet(path, table(own, RESPONSES))
        Manifest(
            stage="generate",
            round=1,
            key="k",
            inputs={},
            settings={},
            files=describe_files(folder, paths),
            stage_version=1,
            seed=1,
            started="2026-01-01T00:00:00Z",  # fixed: without a spec.yaml, the digest of the folder covers its manifest
            seconds=0.0,
            versions=library_versions(),
        ).sealed().write(folder)
        return folder

    def spec(
        self,
        texts: Texts,
        annotators: Mapping[str, Mapping[str, Any]],
        *,
        out: str = "label",
        cut: Sequence[tuple[str, int]] = (),
        preferences: Mapping[str, Any] | None = None,
        answer: str | None = None,
        seed: int = 11,
        shards: int = 2,
        spread: bool = True,
    ) -> LabelSpec:
        return LabelSpec(
            folder=self.folder / out,
            round=1,
            seed=seed,
            settings=LabelSettings.model_validate(
                {"annotators": annotators, "preferences": PreferenceSettings(**(preferences or {}))}
            ),
            responses=self.responses(texts, cut=cut, shards=shards, spread=spread),
            prompts=self.prompts(list(texts), answer=answer),
        )


@pytest.fixture(autouse=True)
def importable_voters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotators of kind function find voters.py beside this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[[str], World]:
    return lambda name: World(tmp_path / name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """A chat server with quick retries."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("tasks.panel.chat.endpoint._FIRST_WAIT", 0.01)
    fake = ChatServer()
    yield fake
    fake.close()
