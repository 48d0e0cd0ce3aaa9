"""What votes and scores say about responses and pairs, where an objective needs more than targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.artifact import Artifact
from storage.errors import UserError
from storage.schemas import SCORES, VOTES, read_parquet
from tasks.training.groups import PromptGroup
from tasks.training.settings import TrainSpec

_DECIDED = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Supervised:
    """A prompt group with further columns, by name: of its n pairs (float64 [n] or [n, A]), of its K responses [K]."""

    group: PromptGroup
    pairs: dict[str, np.ndarray] = field(default_factory=dict)
    responses: dict[str, np.ndarray] = field(default_factory=dict)

    def complete(self) -> "Supervised | None":
        """Without pairs of which a column is unknown (NaN); None when no pair is left.

        A pair's column of votes is unknown when nobody voted.
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
        return Supervised(replace(self.group, pairs=pairs), columns, self.responses)


@dataclass(frozen=True)
class Labelled:
    """Supervision of a round: groups, how many pairs had to be left out, and whose votes the column `votes` holds."""

    items: list[Supervised]
    unknown_pairs: int = 0
    annotators: tuple[str, ...] = ()


def supervise(spec: TrainSpec, groups: Sequence[PromptGroup]) -> Labelled:
    """Each group with the columns that the objective needs; pairs of which one is unknown are left out and counted.

    reward: difference of the annotators' scores, mean over those that scored both. votes: each annotator's vote for
    chosen (1, 0, .5 for a tie, NaN for none). win_rate, mean_logit: of a response against all that the panel compared
    it with, itself included. share: of a response among its prompt's (sums to 1). first_level: nothing beats chosen.
    Raises UserError for a round whose file is missing, annotators that gave no scores, and when no pair is left.
    """
    objective = spec.settings.objective
    needs, name = objective.needs(), objective.name
    rounds = sorted({group.round for group in groups})
    read = None
    if needs.scores is not None:
        scores = _read(spec.scores, rounds, SCORES, name, "scores")
        read = _Scores.of_rounds(scores, needs.scores, name, needs.standardise)
    cast = None
    if needs.win_rates or needs.votes:
        cast = _Votes.of_rounds(_read(spec.votes, rounds, VOTES, name, "votes"))
    items = []
    for group in groups:
        pairs: dict[str, np.ndarray] = {}
        responses: dict[str, np.ndarray] = {}
        if read is not None and not needs.listwise:
            pairs["reward"] = read.differences(group)
        if cast is not None and needs.votes:
            pairs["votes"] = cast.for_chosen(group)
        if cast is not None and needs.win_rates:
            responses["win_rate"], responses["mean_logit"] = cast.means(group)
        if needs.listwise:
            shares = read.shares(group, needs.share_temperature) if read else strength_shares(group)
            responses["share"] = shares
        if needs.levels:
            pairs["first_level"] = first_level(group)
        items.append(Supervised(group, pairs, responses))
    whole = [complete for item in items if (complete := item.complete()) is not None]
    unknown = sum(len(group.pairs) for group in groups) - sum(len(item.group.pairs) for item in whole)
    if not whole:
        raise UserError(
            f"of no pair is known what objective {name} needs",
            where=str(spec.preferences.path),
            remedy="see the column outcome of scores.parquet and votes.parquet of the label stage",
        )
    return Labelled(whole, unknown, cast.annotators if cast is not None and needs.votes else ())


def first_level(group: PromptGroup) -> np.ndarray:
    """Of each pair, 1 where no other response of the prompt is preferred to chosen, else 0."""
    beaten = {pair.rejected if pair.label > 0 else pair.chosen for pair in group.pairs if pair.label != 0}
    return np.array([float(pair.chosen not in beaten) for pair in group.pairs])


def strength_shares(group: PromptGroup) -> np.ndarray:
    """softmax of the strengths whose gaps fit the pairs' targets best, [K]; NaN when the pairs do not link all K."""
    size = len(group.responses)
    incidence = np.zeros((len(group.pairs), size))
    for row, pair in enumerate(group.pairs):
        incidence[row, pair.chosen], incidence[row, pair.rejected] = 1.0, -1.0
    strengths, _, rank, _ = np.linalg.lstsq(incidence, np.array([pair.label for pair in group.pairs]), rcond=None)
    return _softmax(strengths) if rank == size - 1 else np.full(size, np.nan)


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    shares: np.ndarray = powers / powers.sum()
    return shares


def _read(
    files: Mapping[int, Artifact], rounds: Sequence[int], schema: pa.Schema, name: str, what: str
) -> dict[int, pa.Table]:
    """The file of each of `rounds`. Raises UserError for one that is not given, or cannot be read."""
    if missing := [number for number in rounds if number not in files]:
        raise UserError(
            f"objective {name} needs the {what} of the label stage of round {', '.join(map(str, missing))}",
            where=f"spec of the train stage: {what}",
            remedy=f"give {what}: {{round: <label stage>/{what}.parquet}}, leave these rounds' preferences out, or "
            "choose an objective that learns from targets (irepo, dpo, ipo)",
        )
    try:
        return {number: read_parquet(files[number].path, schema) for number in rounds}
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(
            f"objective {name} needs the {what} of the label stage, which cannot be read: {error}",
            where=", ".join(str(files[number].path) for number in rounds),
            remedy="run the label stage of the round again",
        ) from None


@dataclass(frozen=True)
class _Scores:
    """Scores by (round, prompt, response index): [A], NaN where an annotator gave none."""

    values: dict[tuple[int, str, int], np.ndarray]
    annotators: int

    @classmethod
    def of_rounds(
        cls, tables: Mapping[int, pa.Table], wanted: Sequence[str], name: str, standardise: bool
    ) -> "_Scores":
        given = {number: data.filter(pc.equal(data["outcome"], "score")) for number, data in tables.items()}
        found = list(dict.fromkeys(each for data in given.values() for each in data["annotator"].to_pylist()))
        if missing := [each for each in wanted if each not in found] or ([] if found else ["anybody"]):
            raise UserError(
                f"objective {name} needs scores, and there are none by {', '.join(missing)}",
                where="scores.parquet of the label stage",
                remedy="add an annotator that scores (reward_model, rubric, rule), or objective.rewards=target",
            )
        names = list(wanted) or found
        values: dict[tuple[int, str, int], np.ndarray] = {}
        for number, data in given.items():
            for place, annotator in enumerate(names):
                rows = data.filter(pc.equal(data["annotator"], annotator))
                scores = rows["score"].to_numpy()
                if standardise and len(scores):
                    scores = (scores - scores.mean()) / (scores.std() or 1.0)
                keys = zip(rows["prompt_id"].to_pylist(), rows["response_index"].to_pylist(), strict=True)
                for (prompt, index), score in zip(keys, scores, strict=True):
                    values.setdefault((number, prompt, index), np.full(len(names), np.nan))[place] = score
        return cls(values, len(names))

    def of(self, group: PromptGroup) -> np.ndarray:
        """[K, A]."""
        unknown = np.full(self.annotators, np.nan)
        return np.array([self.values.get((group.round, group.prompt_id, index), unknown) for index in group.indices])

    def differences(self, group: PromptGroup) -> np.ndarray:
        scores = self.of(group)
        return np.array([_mean(scores[pair.chosen] - scores[pair.rejected]) for pair in group.pairs])

    def shares(self, group: PromptGroup, temperature: float) -> np.ndarray:
        """Of all K; NaN where nobody scored them all."""
        import torch

        from tasks.training.objectives.adpo import score_shares

        scores = self.of(group)
        whole = scores[:, ~np.isnan(scores).any(axis=0)]
        if not whole.shape[1]:
            return np.full(len(scores), np.nan)
        return score_shares(torch.from_numpy(whole.mean(axis=1)), temperature=temperature).numpy()


@dataclass(frozen=True)
class _Votes:
    """Decided votes by round and prompt: rows (index a, index b, annotator's place, share of the vote for a)."""

    rows: dict[tuple[int, str], list[tuple[int, int, int, float]]]
    annotators: tuple[str, ...]

    @classmethod
    def of_rounds(cls, tables: Mapping[int, pa.Table]) -> "_Votes":
        places: dict[str, int] = {}
        rows: dict[tuple[int, str], list[tuple[int, int, int, float]]] = {}
        for number, data in tables.items():
            columns = (data[each].to_pylist() for each in ("prompt_id", "index_a", "index_b", "annotator", "outcome"))
            for prompt, a, b, annotator, outcome in zip(*columns, strict=True):
                place = places.setdefault(annotator, len(places))
                if outcome in _DECIDED:
                    rows.setdefault((number, prompt), []).append((a, b, place, _DECIDED[outcome]))
        return cls(rows, tuple(places))

    def for_chosen(self, group: PromptGroup) -> np.ndarray:
        """[n, A]. An annotator that was asked more than once about a pair counts with its mean."""
        cast: dict[tuple[int, int, int], list[float]] = {}
        for a, b, who, share in self.rows.get((group.round, group.prompt_id), []):
            cast.setdefault((a, b, who), []).append(share)
            cast.setdefault((b, a, who), []).append(1 - share)
        ends = [(group.indices[pair.chosen], group.indices[pair.rejected]) for pair in group.pairs]
        return np.array(
            [[_mean(np.array(cast.get((*end, who), []))) for who in range(len(self.annotators))] for end in ends]
        )

    def means(self, group: PromptGroup) -> tuple[np.ndarray, np.ndarray]:
        """Mean win rate and mean Haldane-Anscombe logit of each response, [K], over what it was compared with.

        The response itself is among them, with 1/2 and 0. NaN where it was compared with nothing.
        """
        wins: dict[tuple[int, int], float] = {}
        for a, b, _, share in self.rows.get((group.round, group.prompt_id), []):
            wins[a, b] = wins.get((a, b), 0.0) + share
            wins[b, a] = wins.get((b, a), 0.0) + 1 - share
        rates, logits = np.full(len(group.indices), np.nan), np.full(len(group.indices), np.nan)
        for place, index in enumerate(group.indices):
            against = [(won, wins[j, i]) for (i, j), won in wins.items() if i == index]
            if against:
                rates[place] = (0.5 + sum(won / (won + lost) for won, lost in against)) / (1 + len(against))
                logits[place] = sum(np.log((w + 0.5) / (lost + 0.5)) for w, lost in against) / (1 + len(against))
        return rates, logits


def _mean(values: np.ndarray) -> float:
    """Mean of what is known; NaN of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
