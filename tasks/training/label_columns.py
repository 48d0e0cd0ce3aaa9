"""Columns of pairs and responses from votes and scores, for objectives that need more than targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.artifact import Artifact
from storage.errors import UserError
from storage.schemas import COUNTED_VOTES, SCORES, read_parquet
from tasks.training.groups import HIGHEST_GOAL, PromptGroup
from tasks.training.settings import TrainSpec


@dataclass(frozen=True)
class LabeledGroup:
    """A prompt group with further columns of its n pairs and K responses, by name."""

    group: PromptGroup
    pairs: dict[str, np.ndarray] = field(default_factory=dict)  # float64 [n], or [n, A] for votes
    responses: dict[str, np.ndarray] = field(default_factory=dict)  # float64 [K]

    def complete(self) -> "LabeledGroup | None":
        """This group without pairs that have an unknown value (NaN); None when no pair is left.

        A pair's votes are unknown only when nobody voted.
        """
        known = np.ones(len(self.group.pairs), dtype=bool)
        for values in self.pairs.values():
            known &= ~np.isnan(values).reshape(len(known), -1).all(axis=1)
        ends = np.array([(pair.chosen, pair.rejected) for pair in self.group.pairs])
        for values in self.responses.values():
            known &= ~np.isnan(values[ends]).any(axis=1)
        if not known.any():
            return None
        if known.all():
            return self
        pairs = [pair for pair, keep in zip(self.group.pairs, known, strict=True) if keep]
        columns = {name: values[known] for name, values in self.pairs.items()}
        return LabeledGroup(replace(self.group, pairs=pairs), columns, self.responses)


@dataclass(frozen=True)
class LabeledData:
    """The labeled groups of a train stage."""

    groups: list[LabeledGroup]
    unknown_pairs: int = 0  # skipped, because a column that the objective needs is unknown
    annotators: tuple[str, ...] = ()  # of the columns of pairs["votes"]


def add_label_columns(spec: TrainSpec, groups: Sequence[PromptGroup]) -> LabeledData:
    """Add the columns that the objective needs. Pairs with an unknown value are skipped and counted.

    Columns of pairs: `reward`, score of chosen minus score of rejected, mean over the annotators that scored both;
    `votes`, the share of each annotator's vote that goes to chosen (NaN without one), and `vote_weights`;
    `first_level`, 1 if no response beats chosen; `se`, the standard error of the target; `second`, whether chosen is in
    the second half of its prompt's responses (unknown for pairs that the objective does not take, see `Needs.halves`);
    `best`, whether the prompt asks for the highest goal.
    Columns of responses: `win_rate` and `mean_logit`, means over all
    responses that the panel compared it with, and itself; `share`, the label of a listwise objective, which sums to 1
    over a prompt's responses. Votes are those that count in the preferences, with their weights.
    Raises UserError when a round's file is missing, when an annotator gave no scores, and when no pair is left.
    """
    objective = spec.settings.objective
    needs, name = objective.needs(), objective.name
    rounds = sorted({group.round for group in groups})
    score_table = None
    if needs.scores is not None:
        scores = _read(spec.scores, rounds, SCORES, name, "scores")
        score_table = _Scores.of_rounds(scores, needs.scores, name, needs.standardise)
    vote_table = None
    if needs.win_rates or needs.votes:
        vote_table = _Votes.of_rounds(_read(spec.votes, rounds, COUNTED_VOTES, name, "votes"))
    labeled = []
    for group in groups:
        pairs: dict[str, np.ndarray] = {}
        responses: dict[str, np.ndarray] = {}
        if score_table is not None and not needs.listwise:
            pairs["reward"] = score_table.differences(group)
        if vote_table is not None and needs.votes:
            pairs["votes"], pairs["vote_weights"] = vote_table.for_chosen(group)
        if vote_table is not None and needs.win_rates:
            responses["win_rate"], responses["mean_logit"] = vote_table.means(group)
        if needs.listwise:
            responses["share"] = (
                score_table.shares(group, needs.share_temperature) if score_table else strength_shares(group)
            )
        if needs.levels:
            pairs["first_level"] = first_level(group)
        if needs.errors:
            pairs["se"] = np.array([pair.se for pair in group.pairs])
        if needs.goals:
            pairs["best"] = np.full(len(group.pairs), asks_for_the_best(group, spec))
        if needs.halves is not None:
            pairs["second"] = second_half(group, spec, needs.halves)
        labeled.append(LabeledGroup(group, pairs, responses))
    complete = [rest for group in labeled if (rest := group.complete()) is not None]
    unknown = sum(len(group.pairs) for group in groups) - sum(len(rest.group.pairs) for rest in complete)
    if not complete:
        raise UserError(
            f"no pair has all the votes, scores or errors of targets that objective {name} needs",
            where=str(spec.preferences.path),
            remedy="look for errors and abstentions in the column `outcome` of scores.parquet and votes.parquet",
        )
    return LabeledData(complete, unknown, vote_table.annotators if vote_table is not None and needs.votes else ())


def first_level(group: PromptGroup) -> np.ndarray:
    """1 for each pair whose chosen response loses no pair of the prompt, else 0; float64 [n]."""
    beaten = {pair.rejected if pair.label > 0 else pair.chosen for pair in group.pairs if pair.label != 0}
    return np.array([float(pair.chosen not in beaten) for pair in group.pairs])


def asks_for_the_best(group: PromptGroup, spec: TrainSpec) -> float:
    """1 if the prompt of a relabelled group asks for the highest goal, else 0. Its id ends with the goal."""
    _, mark, goal = group.prompt_id.rpartition("@")
    if not mark:
        raise UserError(
            f"objective {spec.settings.objective.name} needs prompts with a goal; {group.prompt_id} has none",
            where=str(spec.preferences.path),
            remedy="relabel the pairs: recipe=c-rlft",
        )
    return float(float(goal) == HIGHEST_GOAL)


def second_half(group: PromptGroup, spec: TrainSpec, wanted: Literal["across", "within"]) -> np.ndarray:
    """1 for each pair whose chosen response is in the second half, else 0; NaN for pairs not `wanted`. float64 [n]."""
    if spec.first_half is None:
        raise UserError(
            f"objective {spec.settings.objective.name} needs to know which responses are in the first half",
            where="spec of the train stage: first_half",
            remedy="set first_half to the number of responses in the first half",
        )
    second = np.array([index >= spec.first_half for index in group.indices])
    ends = [(second[pair.chosen], second[pair.rejected]) for pair in group.pairs]
    return np.array([float(one) if (one != other) == (wanted == "across") else np.nan for one, other in ends])


def strength_shares(group: PromptGroup) -> np.ndarray:
    """Softmax of the strengths whose differences fit the pairs' targets best (least squares), float64 [K].

    NaN when the pairs do not connect all K responses.
    """
    size = len(group.responses)
    incidence = np.zeros((len(group.pairs), size))
    for row, pair in enumerate(group.pairs):
        incidence[row, pair.chosen], incidence[row, pair.rejected] = 1.0, -1.0
    strengths, _, rank, _ = np.linalg.lstsq(incidence, np.array([pair.label for pair in group.pairs]), rcond=None)
    return _softmax(strengths) if rank == size - 1 else np.full(size, np.nan)


def _softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    shares: np.ndarray = exponentials / exponentials.sum()
    return shares


_FILES = {"scores": "scores.parquet", "votes": "counted_votes.parquet"}


def _read(
    files: Mapping[int, Artifact], rounds: Sequence[int], schema: pa.Schema, objective: str, table: str
) -> dict[int, pa.Table]:
    """The file of each of `rounds`. Raises UserError for a file that is missing or cannot be read."""
    if missing := [number for number in rounds if number not in files]:
        raise UserError(
            f"objective {objective} needs the {table} of the label stage of round {', '.join(map(str, missing))}",
            where=f"spec of the train stage: {table}",
            remedy=f"set {table}: {{round: <label stage>/{_FILES[table]}}}, remove these rounds from the preferences, "
            "or choose an objective that learns from targets (irepo, dpo, ipo)",
        )
    try:
        return {number: read_parquet(files[number].path, schema) for number in rounds}
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(
            f"objective {objective} needs the {table} of the label stage, which cannot be read: {error}",
            where=", ".join(str(files[number].path) for number in rounds),
            remedy="run the label stage of the round again",
        ) from None


@dataclass(frozen=True)
class _Scores:
    """Scores by (round, prompt, response index): float64 [A], NaN if an annotator gave none."""

    values: dict[tuple[int, str, int], np.ndarray]
    annotators: int

    @classmethod
    def of_rounds(
        cls, tables: Mapping[int, pa.Table], annotators: Sequence[str], objective: str, standardise: bool
    ) -> "_Scores":
        """Scores of `annotators`; if empty, of all that gave any. Raises UserError when one gave none."""
        scored = {number: data.filter(pc.equal(data["outcome"], "score")) for number, data in tables.items()}
        scorers = list(dict.fromkeys(name for data in scored.values() for name in data["annotator"].to_pylist()))
        if missing := [name for name in annotators if name not in scorers] or ([] if scorers else ["any annotator"]):
            raise UserError(
                f"objective {objective} needs scores, but there are none by {', '.join(missing)}",
                where="scores.parquet of the label stage",
                remedy="add an annotator that scores (reward_model, rubric, rule) and overwrite=true, or set "
                "objective.rewards=target",
            )
        names = list(annotators) or scorers
        values: dict[tuple[int, str, int], np.ndarray] = {}
        for number, data in scored.items():
            for column, annotator in enumerate(names):
                rows = data.filter(pc.equal(data["annotator"], annotator))
                scores = rows["score"].to_numpy()
                if standardise and len(scores):
                    scores = (scores - scores.mean()) / (scores.std() or 1.0)
                keys = zip(rows["prompt_id"].to_pylist(), rows["response_index"].to_pylist(), strict=True)
                for (prompt, index), score in zip(keys, scores, strict=True):
                    values.setdefault((number, prompt, index), np.full(len(names), np.nan))[column] = score
        return cls(values, len(names))

    def of(self, group: PromptGroup) -> np.ndarray:
        """Scores of the group's responses, float64 [K, A]."""
        unknown = np.full(self.annotators, np.nan)
        return np.array([self.values.get((group.round, group.prompt_id, index), unknown) for index in group.indices])

    def differences(self, group: PromptGroup) -> np.ndarray:
        """Score of chosen minus score of rejected, mean over the annotators that scored both, float64 [n]."""
        scores = self.of(group)
        return np.array([_mean(scores[pair.chosen] - scores[pair.rejected]) for pair in group.pairs])

    def shares(self, group: PromptGroup, temperature: float) -> np.ndarray:
        """Softmax of the responses' mean scores, float64 [K], over annotators that scored all K; NaN if none did."""
        import torch

        from tasks.training.objectives.adpo import score_shares

        scores = self.of(group)
        complete = scores[:, ~np.isnan(scores).any(axis=0)]
        if not complete.shape[1]:
            return np.full(len(scores), np.nan)
        return score_shares(torch.from_numpy(complete.mean(axis=1)), temperature=temperature).numpy()


@dataclass(frozen=True)
class _Votes:
    """Counted votes by (round, prompt): rows (index a, index b, annotator's column, share for a, weight)."""

    rows: dict[tuple[int, str], list[tuple[int, int, int, float, float]]]
    annotators: tuple[str, ...]

    @classmethod
    def of_rounds(cls, tables: Mapping[int, pa.Table]) -> "_Votes":
        columns: dict[str, int] = {}
        rows: dict[tuple[int, str], list[tuple[int, int, int, float, float]]] = {}
        for number, data in tables.items():
            fields = (data[name].to_pylist() for name in COUNTED_VOTES.names)
            for prompt, a, b, annotator, share, weight in zip(*fields, strict=True):
                column = columns.setdefault(annotator, len(columns))
                rows.setdefault((number, prompt), []).append((a, b, column, share, weight))
        return cls(rows, tuple(columns))

    def for_chosen(self, group: PromptGroup) -> tuple[np.ndarray, np.ndarray]:
        """Share of each annotator's vote for chosen (NaN without a vote), and its weight (0 without), [n, A] each."""
        sums: dict[tuple[int, int, int], np.ndarray] = {}  # weight for the first, of all; number
        for a, b, column, share, weight in self.rows.get((group.round, group.prompt_id), []):
            for first, second, part in ((a, b, share), (b, a, 1 - share)):
                more = np.array([weight * part, weight, 1.0])
                sums[first, second, column] = sums.get((first, second, column), np.zeros(3)) + more
        ends = [(group.indices[pair.chosen], group.indices[pair.rejected]) for pair in group.pairs]
        none = np.array([np.nan, 0.0, 1.0])
        annotators = range(len(self.annotators))
        found = np.array([[sums.get((*end, column), none) for column in annotators] for end in ends])
        won, cast, number = np.moveaxis(found, 2, 0)
        return np.divide(won, cast, out=np.full_like(won, np.nan), where=cast > 0), cast / number

    def means(self, group: PromptGroup) -> tuple[np.ndarray, np.ndarray]:
        """Mean win rate and mean Haldane-Anscombe logit of each response over its opponents, float64 [K] each.

        The response itself counts as an opponent, with win rate 1/2 and logit 0. NaN for a response without votes.
        """
        wins: dict[tuple[int, int], float] = {}
        for a, b, _, share, weight in self.rows.get((group.round, group.prompt_id), []):
            wins[a, b] = wins.get((a, b), 0.0) + weight * share
            wins[b, a] = wins.get((b, a), 0.0) + weight * (1 - share)
        rates, logits = np.full(len(group.indices), np.nan), np.full(len(group.indices), np.nan)
        for position, index in enumerate(group.indices):
            results = [(won, wins[j, i]) for (i, j), won in wins.items() if i == index]
            if results:
                rates[position] = (0.5 + sum(won / (won + lost) for won, lost in results)) / (1 + len(results))
                logits[position] = sum(np.log((w + 0.5) / (lost + 0.5)) for w, lost in results) / (1 + len(results))
        return rates, logits


def _mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
