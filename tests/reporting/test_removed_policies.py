"""The report's table of policies that were removed to free disk."""

from pathlib import Path

from storage.files import publish_text
from storage.retention import Removed
from tasks.evaluation.gate import Decision
from tasks.reporting.report.write import write_report
from tests.reporting.made_up_run import MadeUpRun


def test_removed_policies_are_listed_with_what_they_freed(tmp_path: Path) -> None:
    made = MadeUpRun(tmp_path / "made")
    made.evaluate(0)
    made.round(1, base=0, decision=Decision(action="promote", by="none"))
    assert "Removed policies" not in write_report(made.root, figures=False).read_text()
    removed = Removed(why="storage.keep_policies=promoted", files={"policy/model.safetensors": 1_500_000})
    publish_text(made.root / "round-01" / "train" / "removed.json", removed.model_dump_json())
    html = write_report(made.root, figures=False).read_text()
    section = html.partition('<section id="removed">')[2].partition("</section>")[0]
    assert "1.5 MB" in section
    assert "storage.keep_policies=promoted" in section
