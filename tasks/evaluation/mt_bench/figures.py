"""Mean grades of MT-Bench, overall, by turn and by category, with intervals over questions."""

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from storage.manifest import Manifest
from storage.schemas import GRADES, read_parquet
from tasks.evaluation.intervals import Bootstrap, Interval, bootstrap_mean


class MtBench(BaseModel):
    """Mean grades, 1 to 10; None when there is no grade. Compare them only with grades of the same judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judge: str
    overall: Interval | None  # over all grades, not the mean of the turns' means
    turns: dict[str, Interval]  # "1", "2"
    categories: dict[str, Interval]
    failed: dict[str, int]  # by turn: replies of the judge without a readable grade; they count in no mean


def mt_bench(folder: Path, graded: Manifest, draw: Bootstrap) -> MtBench:
    """The mean grades of a finished grade stage in `folder`."""
    rows = read_parquet(folder / "grades.parquet", GRADES).to_pylist()
    counted = [row for row in rows if row["outcome"] == "score"]

    def mean(graded_rows: list[dict[str, object]]) -> Interval | None:
        if not graded_rows:
            return None
        grades = [float(str(row["grade"])) for row in graded_rows]
        return bootstrap_mean(grades, [str(row["question_id"]) for row in graded_rows], draw)

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
