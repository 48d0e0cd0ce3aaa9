"""Figures that a GPU must reach, from the rows of the sections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gpu.bench import Row
from benchmarks.gpu.steps import OURS, RIVALS

Sections = Mapping[str, Sequence[Row]]

SPEED_UP = {"pairs": 1.35, "groups of four": 4.0}  # over the best of RIVALS
LEAST_MFU = 0.45  # at 1.5B
LARGEST_LOSS_DIFFERENCE = 1e-3  # relative, of a resumed stage
MODEL = "1.5B"


@dataclass(frozen=True)
class Promise:
    """A figure against its bound. `value` is None when its section did not measure it."""

    name: str
    value: float | None
    bound: float
    at_least: bool

    @property
    def kept(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def row(self) -> Row:
        sign = ">=" if self.at_least else "<="
        measured: str | float = "not measured" if self.value is None else self.value
        return {
            "figure": self.name,
            "required": f"{sign} {self.bound:g}",
            "measured": measured,
            "kept": "yes" if self.kept else "NO",
        }


def promises(sections: Sections) -> list[Promise]:
    """The promised figures, in those of `sections` that ran; a section that failed has no rows."""
    result: list[Promise] = []
    if "numerics" in sections:
        verdicts = [row["passes"] == "yes" for row in sections["numerics"] if "passes" in row]
        result.append(Promise("packed self-test passes", min(verdicts, default=None), 1, at_least=True))
    if "resume" in sections:
        losses = [float(row["loss, relative"]) for row in sections["resume"] if row["run"] == "killed"]
        result.append(
            Promise("resumed losses, relative", max(losses, default=None), LARGEST_LOSS_DIFFERENCE, at_least=False)
        )
    if "steps" in sections:
        for data, bound in SPEED_UP.items():
            name = f"{data}, {MODEL}: times the best padded or TRL arm"
            result.append(Promise(name, _speed_up(sections["steps"], data), bound, at_least=True))
        name = f"MFU of useful tokens, {MODEL}"
        result.append(Promise(name, _mfu(sections["steps"]), LEAST_MFU, at_least=True))
    return result


def _of(rows: Sequence[Row], data: str, figure: str) -> dict[str, float]:
    """The figure by arm, where it was measured."""
    return {
        str(row["arm"]): float(row[figure])
        for row in rows
        if row["model"] == MODEL and row["data"] == data and figure in row
    }


def _speed_up(rows: Sequence[Row], data: str) -> float | None:
    pace = _of(rows, data, "pairs/s")
    best = max((pace[arm] for arm in RIVALS if arm in pace), default=None)
    return pace[OURS] / best if best is not None and OURS in pace else None


def _mfu(rows: Sequence[Row]) -> float | None:
    """Of full training on groups of four, without recomputation."""
    return _of(rows, "groups of four", "MFU").get(OURS)
