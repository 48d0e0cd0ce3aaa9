"""The report's table of targets and updates."""

from pathlib import Path

from tasks.reporting.report.files import read_run
from tasks.reporting.report.learning import table
from tests.reporting.made_up_run import MadeUpRun

UPDATE = {"norm": 1.0, "relative": 2.5e-5, "share": 1.0, "dtype": "bfloat16", "share_in_dtype": 0.14}


def test_shares_of_a_round(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.stage("label", 1, annotators=[], targets={"pairs": 200, "zero": 114, "prompts": 48, "informative": 28})
    run.stage("train", 1, update=UPDATE)
    html = table(read_run(run.root).rounds)
    for cell in ("57 %", "20 of 48", "2.5e-05", "100 %", "14 %<small>bfloat16</small>"):
        assert f">{cell}<" in html, cell


def test_stages_of_earlier_versions_have_no_row(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.stage("label", 1, annotators=[])
    run.stage("train", 1)
    assert table(read_run(run.root).rounds) == ""
