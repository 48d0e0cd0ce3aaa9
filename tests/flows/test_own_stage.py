"""A new stage is one file and its line in the round: everything else follows."""

import sys
from pathlib import Path

import pytest

from flows.record import _seconds
from flows.stages import BareStages, FinishedStages, ListedStages
from storage.artifact import Artifact
from storage.lineage import open_run
from storage.manifest import BrokenManifest
from tasks.run import main
from tests.flows.own_stage import CountSettings, CountSpec


def count_spec(run: Path) -> CountSpec:
    text = run / "text.txt"
    text.write_text("one\ntwo\n", encoding="utf-8")
    folder = run / "round-01" / "count"
    return CountSpec(folder=folder, round=1, seed=0, settings=CountSettings(), text=Artifact.of(text))


def test_a_stage_in_one_file_runs_lists_resumes_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("name: mine\n", encoding="utf-8")
    spec = count_spec(tmp_path)
    listed = ListedStages()
    assert (listed(spec).maker, listed.specs) == ("round-01/count", [spec])
    with pytest.raises(BrokenManifest, match="missing"):
        FinishedStages(check_files=True)(spec)
    stages = BareStages()
    artifact = stages(spec)
    assert (artifact.path / "count.txt").read_text(encoding="utf-8") == "2 lines\n"
    assert FinishedStages(check_files=True)(spec) == artifact
    assert list(_seconds(stages.manifests)) == ["count"]
    assert list(open_run(tmp_path).stages) == ["round-01/count"]
    (spec.folder / "count.txt").unlink()
    monkeypatch.setattr(sys, "argv", ["tasks.run", str(spec.folder)])
    main()
    assert (spec.folder / "count.txt").is_file()
