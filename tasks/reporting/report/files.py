"""Reads what the report shows from a run's manifests, Parquet files and decisions; any part may be missing.

Files are not checked against their digests: hashing weights is slow, and `storage.explain` does it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.conversations import conversation_text
from storage.errors import UserError
from storage.lineage import Run, open_run, place
from storage.manifest import Manifest
from storage.rows import Row
from tasks.evaluation.gate import DECISION, Decision, GateSpec
from tasks.evaluation.metrics import Metrics
from tasks.reporting.verdict import Aims, Measured, State

_LIMIT = 24  # pairs, and held-out prompts, to read


@dataclass(frozen=True)
class Spent:
    """Cost and tokens of one annotator or judge in one round. cost: None without a price."""

    round: int
    name: str
    cost: float | None
    tokens: int | None


@dataclass(frozen=True)
class Round:
    """A round that has at least begun; round 0 is the initial policy.

    base: the round whose policy this one started from. decision: None before the gate decided.
    """

    number: int
    base: int
    stages: Mapping[str, Manifest]  # by name within the round, as in `evaluate/responses`, in the order of the round
    folder: Path
    decision: Decision | None

    @property
    def figures(self) -> Mapping[str, Any]:
        """Summary of the evaluation; {} before the round is evaluated."""
        return self.stages["evaluate"].summary if "evaluate" in self.stages else {}

    @property
    def labels(self) -> Mapping[str, Any] | None:
        return self.stages["label"].summary if "label" in self.stages else None

    @property
    def seconds(self) -> dict[str, float]:
        """Time by top-level folder of the round, in the order of the round. A decision takes no time of its own."""
        seconds: dict[str, float] = {}
        for stage, manifest in self.stages.items():
            folder = stage.partition("/")[0]
            if manifest.stage != GateSpec.stage:
                seconds[folder] = seconds.get(folder, 0.0) + manifest.seconds
        return seconds

    def win_rates(self, source: str) -> Mapping[str, Row]:
        """Win rate against `source` (initial, previous or a named policy) by judge, with intervals; {} without one."""
        rates: Mapping[str, Row] = self.figures["win_rate"].get(source, {}) if self.figures else {}
        return rates

    @cached_property
    def targets(self) -> Mapping[str, list[float]] | None:
        """Columns p_hat and target of the preference set; None without one."""
        return _columns(self.folder / "label" / "preferences.parquet", ["p_hat", "target"])

    @cached_property
    def training(self) -> list[Row]:
        """Training metrics: one row per optimizer step."""
        path = self.folder / "train" / "metrics.jsonl"
        if "train" not in self.stages or not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    @cached_property
    def spent(self) -> list[Spent]:
        """Cost and tokens of annotators and judges that record either."""
        rows = list(self.labels["annotators"]) if self.labels else []
        spent = [Spent(self.number, row["annotator"], row["cost"], row["tokens"]) for row in rows]
        totals: dict[str, dict[str, float]] = {}
        known = pc.field("cost").is_valid() | pc.field("tokens").is_valid()
        for name in ("votes", "scores"):
            path = self.folder / "evaluate" / "judgements" / f"{name}.parquet"
            for row in _rows(path, ["annotator", "cost", "tokens"], known):
                total = totals.setdefault(row["annotator"], {})
                for unit in ("cost", "tokens"):
                    if row[unit] is not None:
                        total[unit] = total.get(unit, 0) + row[unit]
        for judge, total in totals.items():
            tokens = total.get("tokens")
            spent.append(Spent(self.number, judge, total.get("cost"), None if tokens is None else int(tokens)))
        return [entry for entry in spent if entry.cost is not None or entry.tokens is not None]


@dataclass(frozen=True)
class RunFiles:
    """A run folder as the report reads it."""

    run: Run
    rounds: Sequence[Round]

    @property
    def name(self) -> str:
        return str(self.run.config.get("name") or self.run.root.name)

    @property
    def evaluated(self) -> list[Round]:
        return [round_ for round_ in self.rounds if round_.figures]

    @property
    def judges(self) -> list[str]:
        """Judges with a win rate in any round, in the order of the configuration."""
        configured = (self.run.config.get("evaluation") or {}).get("judges") or {}
        seen = {
            judge for round_ in self.evaluated for judges in round_.figures["win_rate"].values() for judge in judges
        }
        return [judge for judge in configured if judge in seen] + sorted(seen - set(configured))

    @property
    def aims(self) -> Aims:
        """What the configuration of the run counts as better."""
        evaluation = self.run.config.get("evaluation") or {}
        return Aims(self.judges, evaluation.get("truth"), evaluation.get("better") or {})

    @property
    def waiting(self) -> Round | None:
        """The round on which a person has to decide; None where none waits."""
        asks = (self.run.config.get("gate") or {}).get("kind") == "human"
        last = self.evaluated[-1] if self.evaluated else None
        return last if last and asks and last.number and last.decision is None else None

    @property
    def measured(self) -> list[Measured]:
        """The evaluated rounds as the verdict reads them."""
        found = []
        for each in self.evaluated:
            costs = [spent.cost for spent in each.spent if spent.cost is not None]
            back = each.decision is not None and each.decision.action == "roll back"
            state: State = "rolled back" if back else "waits" if each is self.waiting else "standing"
            metrics = Metrics.model_validate(each.figures)
            found.append(
                Measured(each.number, metrics, sum(each.seconds.values()), sum(costs) if costs else None, state)
            )
        return found

    @property
    def named(self) -> list[str]:
        """Names of further policies that rounds were compared with (`evaluation.against`)."""
        seen = {source for round_ in self.evaluated for source in round_.figures["win_rate"]}
        return sorted(seen - {"initial", "previous"})


def read_run(root: Path) -> RunFiles:
    """Read a run folder.

    Raises UserError when `root` is not a run folder, ValueError when a file in it has unexpected content.
    """
    if not (root / "config.yaml").is_file():
        raise UserError(
            "this is not a run folder: it has no config.yaml", where=str(root), remedy="name one, e.g. runs/mine"
        )
    run = open_run(root)
    stages: dict[int, dict[str, Manifest]] = {}
    for name, stage in run.stages.items():
        number, inner = place(name)
        if number >= 0:
            stages.setdefault(number, {})[inner] = stage.manifest
    rounds: list[Round] = []
    for number, manifests in sorted(stages.items()):
        folder = root / f"round-{number:02d}"
        kept = [round_.number for round_ in rounds if round_.decision is None or round_.decision.action != "roll back"]
        rounds.append(Round(number, kept[-1] if kept else 0, manifests, folder, _decision(folder, manifests)))
    return RunFiles(run, rounds)


def _decision(folder: Path, manifests: Mapping[str, Manifest]) -> Decision | None:
    path = folder / "gate" / DECISION
    if "gate" not in manifests or not path.is_file():
        return None
    return Decision.model_validate_json(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt, side by side, with the votes on them."""

    prompt: str
    sides: tuple[str, str]
    notes: tuple[str, str]  # below each side
    votes: Mapping[str, list[str]]  # annotators by their vote: left, right, tie, abstain, error

    @property
    def disagreement(self) -> float:
        """How evenly votes are split, 0 (all for one side, or no votes) to 1 (as many for each)."""
        left, right, tie = (len(self.votes.get(side, [])) for side in ("left", "right", "tie"))
        votes = left + right + tie
        return 1 - abs(left - right) / votes if votes else 0.0

    @property
    def outcome(self) -> str:
        """The side with more votes, left or right; even where neither has."""
        left, right = (len(self.votes.get(side, [])) for side in ("left", "right"))
        return "left" if left > right else "right" if right > left else "even"


def labelled_pairs(labelled: Round) -> list[Pair]:
    """Every k-th pair of a round's preference set with the panel's votes on it: an unselected sample."""
    path = labelled.folder / "label" / "preferences.parquet"
    if "label" not in labelled.stages or not path.is_file():
        return []
    columns = ["prompt_id", "chosen_index", "rejected_index", "prompt", "chosen", "rejected"]
    table = pq.read_table(path, columns=[*columns, "p_hat", "target", "target_se"])
    rows = table.take(_spread(table.num_rows)).to_pylist()
    votes: dict[tuple[str, frozenset[int]], list[Row]] = {}
    columns = ["prompt_id", "index_a", "index_b", "annotator", "outcome"]
    for vote in _rows(labelled.folder / "label" / "votes.parquet", columns, _of({row["prompt_id"] for row in rows})):
        votes.setdefault((vote["prompt_id"], frozenset((vote["index_a"], vote["index_b"]))), []).append(vote)
    pairs = []
    for row in rows:
        chosen, rejected = row["chosen_index"], row["rejected_index"]
        votes_on_pair: dict[str, list[str]] = {}
        for vote in votes.get((row["prompt_id"], frozenset((chosen, rejected))), []):
            sides = ("left", "right") if vote["index_a"] == chosen else ("right", "left")
            outcome = str(vote["outcome"])
            side = dict(zip("ab", sides, strict=True)).get(outcome, outcome)
            votes_on_pair.setdefault(side, []).append(vote["annotator"])
        notes = (
            f"preferred, P̂ {row['p_hat']:.2f}, target {row['target']:.2f} ±{row['target_se']:.2f}",
            f"P̂ {1 - row['p_hat']:.2f}",
        )
        replies = (conversation_text(row["chosen"]), conversation_text(row["rejected"]))
        pairs.append(Pair(conversation_text(row["prompt"]), replies, notes, votes_on_pair))
    return pairs


def heldout_pairs(first: Round, last: Round) -> list[Pair]:
    """Held-out prompts sampled in both evaluations, the first policy's reply on the left, with the judges' votes."""
    samples_of: list[dict[str, Row]] = []
    for round_ in (first, last):
        path = round_.folder / "evaluate" / "samples.json"
        samples = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        samples_of.append({sample["prompt_id"]: sample for sample in samples})
    before, after = samples_of
    both = [prompt for prompt in before if prompt in after]
    shown = [both[position] for position in _spread(len(both))]
    votes: dict[str, dict[str, list[str]]] = {prompt: {} for prompt in shown}
    columns = ["prompt_id", "source_b", "index_a", "index_b", "annotator", "outcome"]
    for vote in _rows(last.folder / "evaluate" / "judgements" / "votes.parquet", columns, _of(shown)):
        if (vote["source_b"], vote["index_a"], vote["index_b"]) == ("initial", 0, 0):
            outcome = str(vote["outcome"])
            side = {"a": "right", "b": "left"}.get(outcome, outcome)
            votes[vote["prompt_id"]].setdefault(side, []).append(vote["annotator"])
    notes = ("initial policy", f"after round {last.number}")
    return [
        Pair(after[prompt]["prompt"], (before[prompt]["reply"], after[prompt]["reply"]), notes, votes[prompt])
        for prompt in shown
    ]


def _spread(count: int) -> list[int]:
    """Positions of at most _LIMIT rows, evenly spaced from the first."""
    return list(range(0, count, max(1, -(-count // _LIMIT))))


def _columns(path: Path, names: list[str]) -> dict[str, list[Any]] | None:
    if not path.is_file():
        return None
    table = pq.read_table(path, columns=names)
    return {name: table[name].to_pylist() for name in names}


def _rows(path: Path, names: list[str], wanted: pc.Expression | None = None) -> list[Row]:
    """Rows of a Parquet file that match `wanted`, or all of them; [] where the file is missing."""
    if not path.is_file():
        return []
    rows: list[Row] = pq.read_table(path, columns=names, filters=wanted).to_pylist()
    return rows


def _of(prompts: Iterable[str]) -> pc.Expression:
    return pc.field("prompt_id").isin(sorted(prompts))
