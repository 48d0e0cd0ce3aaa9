"""A run with a named rival, held-out pairs and a judge that always answers 'A', through the command, twice."""

import json
from pathlib import Path

import pytest

from conf.compose import compose_config
from storage.errors import UserError
from storage.lineage import find, trace
from storage.manifest import folder_digest, read_manifest
from tests.conftest import MakePolicy
from tests.flows.test_iterate import command, words
from tests.panel.chat_server import ChatServer


@pytest.mark.slow
def test_an_always_a_judge_gives_half_and_rivals_are_sampled_once(
    tiny_policy: Path, make_policy: MakePolicy, tmp_path: Path
) -> None:
    prompts, rival, server = tmp_path / "prompts.jsonl", make_policy(seed=3), ChatServer()
    rows = [{"prompt": f"Say {i}", "answer": str(i), "category": ("odd", "even")[i % 2]} for i in range(40)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = f"+evaluation.judges.first={{kind: judge, model: m, base_url: '{server.url}'}}"
    brief = "+evaluation.judges.brief={kind: rule, shorter: true}"
    named = f"+evaluation.against.other={rival}"
    arguments = words(
        tiny_policy, prompts, tmp_path / "runs", "rounds=2", "engine=transformers", judge, brief, named,
        "evaluation.responses=2", "+evaluation.pairs=true", "+evaluation.truth=brief", "push_to_hub=null",
    )  # fmt: skip
    try:
        done = command(arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        asked = len(server.requests)
        run = tmp_path / "runs" / "small"
        made = {path: path.stat().st_mtime_ns for path in run.rglob("manifest.json")}
        again = command(arguments)
        assert again.returncode == 0, again.stdout + again.stderr
    finally:
        server.close()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("manifest.json")} == made  # cards broke no key
    assert len(server.requests) == asked + 1  # the question that every start of a run asks a judge's server

    sampled = read_manifest(run / "round-00" / "against" / "other")
    assert sampled.inputs["policy"] == folder_digest(rival)
    for number, sources in ((0, {"other"}), (1, {"other", "initial"}), (2, {"other", "initial", "previous"})):
        stage = read_manifest(run / f"round-{number:02d}" / "evaluate")
        figures = stage.summary
        assert set(figures["win_rate"]) == sources
        assert stage.inputs["rivals:other"] == sampled.content
        for source in sources:
            rate = figures["win_rate"][source]["first"]
            assert (rate["mean"], rate["low"], rate["high"]) == (0.5, 0.5, 0.5)
            assert figures["length"][source]["first"]["controlled"]["mean"] == pytest.approx(0.5)
        assert set(figures["categories"]) == {"odd", "even"}
        assert (figures["calibration"] is None) == (number == 0)
        assert (run / f"round-{number:02d}" / "evaluate" / "pair-logprobs.parquet").is_file()
    assert read_manifest(run / "round-00" / "evaluate" / "pairs").stage == "label"
    traced = trace(*find(run / "round-02" / "evaluate"))
    assert not traced.breaks
    assert {"round-00/against/other", "round-00/evaluate/pairs", "round-01/evaluate"} <= set(traced.inputs)
    html = (run / "report.html").read_text()
    assert "Win rate against other" in html
    assert (run / "round-02" / "train" / "policy" / "README.md").is_file()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["+evaluation.against.initial=x"], "against: initial cannot be the name of a policy"),
        (["+evaluation.against={a b: x}"], "a b cannot be"),
        (["evaluation.truth=nobody"], "truth: nobody is not one of the judges"),
        (["evaluation.responses=1"], "pairs: a pair needs two responses"),
    ],
)
def test_what_cannot_be_is_refused_at_once(given: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        compose_config(["run=demo", *given])
