"""MT-Bench's figures from a judge's grades: means by turn, over all, by category, with intervals over questions."""

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from storage.manifest import Manifest
from storage.schemas import GRADES, read_parquet
from tasks.evaluation.intervals import Interval, bootstrap_mean


class MtBench(BaseModel):
    """Mean grades, 1 to 10. None where no grade counts.

    They mean something beside other grades of this judge only: not beside published ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    judge: str
    overall: Interval | None  # over all grades, not the mean of the turns' means
    turns: dict[str, Interval]  # "1", "2"
    categories: dict[str, Interval]
    failed: dict[str, int]  # by turn: replies without a grade that can be read; they count in no mean


def mt_bench(folder: Path, graded: Manifest, *, resamples: int, seed: int) -> MtBench:
    """The figures of a finished grade stage in `folder`."""
    rows = read_parquet(folder / "grades.parquet", GRADES).to_pylist()
    counted = [row for row in rows if row["outcome"] == "score"]

    def mean(kept: list[dict[str, object]]) -> Interval | None:
        if not kept:
            return None
        grades = [float(str(row["grade"])) for row in kept]
        return bootstrap_mean(grades, [str(row["question_id"]) for row in kept], resamples=resamples, seed=seed)

    turns = {str(turn): mean([row for row in counted if row["turn"] == turn]) for turn in (1, 2)}
    names = dict.fromkeys(row["category"] for row in rows)
    categories = {name: mean([row for row in counted if row["category"] == name]) for name in names}
    failed = Counter(str(row["turn"]) for row in rows if row["outcome"] != "score")
    return MtBench(
        judge=str(graded.summary["judge"]),
        overall=mean(counted),
        turns={name: value for name, value in turns.items() if value is not None},
        categories={name: value for name, value in categories.items() if value is not None},
        failed={"1": failed["1"], "2": failed["2"]},
    )
