"""A run folder written by hand: manifests, preference sets, votes, samples and decisions, without any model."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from storage.artifact import Artifact
from storage.files import canonical_json, publish_text
from storage.manifest import Manifest, describe_files
from storage.schemas import PREFERENCES, SCORES, VOTES, table, write_parquet
from tasks.evaluation.gate import Decision, GateSpec, publish_decision

HOSTILE = (
    "<script>document.title='run'</script><img src=http://127.0.0.1:9/x.png onerror=alert(1)> & \"quoted\" \x00\x1b"
)


def interval(mean: float, half: float = 0.05) -> dict[str, float]:
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half), "n": 80}


class MadeUpRun:
    """Writes stages below `root`; annotators and judges are the names it was given."""

    def __init__(
        self, root: Path, *, annotators: Sequence[str] = ("first", "second"), judges: Sequence[str] = ("truth",),
        priced: bool = False, text: str = "a reply",
    ) -> None:  # fmt: skip
        self.root, self.annotators, self.judges, self.priced, self.text = root, annotators, judges, priced, text
        config = {
            "name": root.name, "seed": 0, "policy": {"path": "p"}, "prompts": {"path": "f"},
            "objective": {"name": "irepo"}, "evaluation": {"judges": {judge: {} for judge in judges}},
        }  # fmt: skip
        publish_text(root / "config.yaml", yaml.safe_dump(config))

    def stage(self, name: str, number: int, paths: Sequence[Path] = (), **summary: Any) -> Manifest:
        folder = self.root / f"round-{number:02d}" / name
        folder.mkdir(parents=True, exist_ok=True)
        if not paths:  # a stage publishes something
            paths = [folder / "made.txt"]
            publish_text(paths[0], name)
        manifest = Manifest(
            stage=name.rpartition("/")[2], round=number, key=f"{name} of {number}", inputs={}, settings={},
            files=describe_files(folder, paths), summary=summary, stage_version=1, seed=0,
            started="2026-11-01T00:00:00Z", seconds=7.25 * (number + 1), versions={"python": "3"},
        ).sealed()  # fmt: skip
        manifest.write(folder)
        return manifest

    def evaluate(self, number: int, *, base: int = 0, **changed: Any) -> dict[str, Any]:
        """Responses, judgements and figures of a round; returns the figures."""
        judgements = self.root / f"round-{number:02d}" / "evaluate" / "judgements"
        self.stage("evaluate/responses", number)
        rivals = [] if number == 0 else ["initial", "previous"] if base else ["initial"]
        votes = [
            {"prompt_id": f"h{i}", "source_a": "policy", "index_a": 0, "source_b": rival, "index_b": 0,
             "annotator": judge, "kind": "pairs", "outcome": ("a", "b", "tie")[i % 3], "order": "both",
             "cost": 0.002 if self.priced else None, "tokens": 30 if self.priced else None}
            for i in range(6) for rival in rivals for judge in self.judges
        ]  # fmt: skip
        write_parquet(judgements / "votes.parquet", table(votes, VOTES))
        write_parquet(judgements / "scores.parquet", table([], SCORES))
        self.stage("evaluate/judgements", number, [judgements / "votes.parquet", judgements / "scores.parquet"])
        rising = 0.5 + 0.3 * (1 - math.exp(-number / 2))
        figures = {
            "win_rate": {rival: {judge: interval(rising + 0.05 * i) for i, judge in enumerate(self.judges)}
                         for rival in rivals},
            "rates": {"correct": interval(rising - 0.1), "score": {"mean": 2.0, "low": 1.5, "high": 2.5, "n": 80}},
            "kl": {"mean": 0.7 * number, "se": 0.05 if number else 0.0, "per_token": 0.05 * number},
            "tokens": 12.0 + number, "words": 9.0, "finish_rate": 0.98, "unique_rate": 0.9,
            **self._more(number, rivals, rising),
            "excluded": {"votes": {}, "scores": {}},
        } | changed  # fmt: skip
        samples = [{"prompt_id": f"h{i}", "prompt": f"{i}? {self.text}", "reply": self.text} for i in range(6)]
        path = self.root / f"round-{number:02d}" / "evaluate" / "samples.json"
        publish_text(path, canonical_json(samples))
        self.stage("evaluate", number, [path], **figures)
        return figures

    def _more(self, number: int, rivals: Sequence[str], rising: float) -> dict[str, Any]:
        """Lengths, judges beside the first one, categories, held-out pairs."""
        effect = {"controlled": interval(rising - 0.05), "slope": interval(0.02), "delta": 3.5, "deviation": 20.0,
                  "bins": [[-30.0, 0.4, 20], [1.0, 0.55, 20], [40.0, 0.7, 20]]}  # fmt: skip
        return {
            "replies": {"tokens": {"mean": 12.0 + number, "low": 11.0 + number, "high": 13.0 + number, "n": 80}}
            | {name: interval(0.8) for name in ("finished", "unique", "distinct-1", "distinct-2")},
            "length": {rival: dict.fromkeys(self.judges, effect) for rival in rivals},
            "gap": {rival: {judge: {"difference": interval(0.04 * number), "agreement": interval(0.7)}
                            for judge in self.judges[1:]} for rival in rivals},
            "categories": {name: {"prompts": 40, "rates": {}, "win_rate": {
                rival: {judge: interval(rising) for judge in self.judges} for rival in rivals}}
                for name in ("sums", "a long category")},
            "calibration": {"accuracy": interval(0.7), "slope": interval(0.9), "error": interval(0.1),
                            "bins": [[0.5, 0.52, 30], [0.7, 0.66, 30], [0.95, 0.8, 30]]} if number else None,
            "displacement": {f"{side}_{since}": {"mean": sign * number, "low": sign * number - 0.4,
                                                 "high": sign * number + 0.4, "n": 60}
                             for side, sign in (("chosen", -0.5), ("rejected", -1.5)) for since in ("initial", "round")}
            if number else None,
        }  # fmt: skip

    def label(self, number: int) -> None:
        folder = self.root / f"round-{number:02d}" / "label"
        pairs = [self._preference(i, number) for i in range(40)]
        write_parquet(folder / "preferences.parquet", table(pairs, PREFERENCES))
        outcomes = ("a", "b", "tie", "abstain", "error")
        votes = [
            {"prompt_id": f"p{i}", "source_a": "policy", "index_a": 0, "source_b": "policy", "index_b": 1,
             "annotator": name, "kind": "pairs", "outcome": outcomes[(i + j) % 5], "order": "both"}
            for i in range(40) for j, name in enumerate(self.annotators)
        ]  # fmt: skip
        write_parquet(folder / "votes.parquet", table(votes, VOTES))
        names = list(self.annotators)
        agreement = [
            {"annotator": one, "other": other, "both": 20, "same": 0.5, "kappa": (-0.1, 0.3, 0.9, None)[(i + j) % 4]}
            for i, one in enumerate(names) for j, other in enumerate(names[i + 1 :])
        ]  # fmt: skip
        rows = [self._annotator(name, i) for i, name in enumerate(names)]
        paths = [folder / "preferences.parquet", folder / "votes.parquet"]
        self.stage("label", number, paths, annotators=rows, agreement=agreement, learnt={}, dropped={}, pairs=40,
                   comparisons=40)  # fmt: skip

    def _preference(self, i: int, number: int) -> dict[str, Any]:
        target = 0.1 + 0.05 * i
        reply = [{"role": "assistant", "content": self.text}]
        return {
            "prompt": [{"role": "user", "content": f"{i}? {self.text}"}], "chosen": reply, "rejected": reply,
            "prompt_id": f"p{i}", "round": number, "chosen_index": i % 2, "rejected_index": 1 - i % 2,
            "p_hat": 1 / (1 + math.exp(-target)), "target": target, "target_se": 0.4, "votes_chosen": 1.0,
            "votes_rejected": 0.0, "votes_tie": 1.0, "votes_abstain": 0, "votes_error": 0, "prompt_ids": [1],
            "chosen_ids": [1], "rejected_ids": [1], "chosen_finish_reason": "stop", "rejected_finish_reason": "stop",
        }  # fmt: skip

    def _annotator(self, name: str, i: int) -> dict[str, Any]:
        return {
            "annotator": name, "kind": "pairs", "a": 8, "b": 8, "tie": 8, "abstain": 8, "error": 8, "unanswered": 0,
            "faults": "{}", "agrees_with_panel": 0.8, "agrees_with_others": 0.7, "gold_votes": 0,
            "gold_accuracy": None, "first_share": 0.55, "order_consistency": 0.9, "longer_share": 0.6, "triples": 0,
            "intransitive": 0, "seconds": None, "tokens": 1000 * i if self.priced else None,
            "cost": 0.25 * i if self.priced else None,
        }  # fmt: skip

    def train(self, number: int, steps: int = 30) -> None:
        path = self.root / f"round-{number:02d}" / "train" / "metrics.jsonl"
        rows = [
            {"step": i + 1, "epoch": 1, "loss": 1 / (i + 1), "margin": i / steps, "accuracy": 0.5 + 0.4 * i / steps,
             "h_chosen": -0.1, "h_rejected": -i / steps, "label": 1.0, "grad_norm": 1.0, "learning_rate": 1e-4}
            for i in range(steps)
        ]  # fmt: skip
        publish_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self.stage("train", number, [path])

    def decide(self, number: int, decision: Decision) -> None:
        folder = self.root / f"round-{number:02d}" / "gate"
        policy, evaluation = (Artifact(path=folder, digest=f"{name} {number}") for name in ("policy", "evaluation"))
        spec = GateSpec(folder=folder, round=number, seed=0, policy=policy, evaluation=evaluation)
        publish_decision(spec, decision)

    def round(self, number: int, *, base: int, decision: Decision | None = None, **changed: Any) -> None:
        self.stage("generate", number)
        self.label(number)
        self.train(number)
        self.evaluate(number, base=base, **changed)
        if decision is not None:
            self.decide(number, decision)
