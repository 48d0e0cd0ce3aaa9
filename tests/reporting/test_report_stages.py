"""Which stages the report shows, and in which order: both follow from the manifests."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from storage.files import publish_text
from storage.manifest import Manifest, describe_files
from tasks.reporting.report.files import read_run
from tasks.reporting.report.work import time_chart


def publish(root: Path, name: str, seconds: float, *makers: str, stage: str = "any") -> None:
    made_by = {f"input:{i}": maker for i, maker in enumerate(makers)}
    publish_text(root / name / "made.txt", name)
    files = describe_files(root / name, [root / name / "made.txt"])
    manifest = Manifest(
        stage=stage, round=1, key="", inputs=dict.fromkeys(made_by, "0" * 64), made_by=made_by, settings={},
        files=files, stage_version=1, seed=0, started="2026-11-01T00:00:00Z", seconds=seconds, versions={},
    )  # fmt: skip
    manifest.sealed().write(root / name)


def a_round(root: Path, number: int) -> None:
    """Six folders; their names are not in the order in which they depend on each other."""
    at = f"round-{number:02d}"
    publish(root, f"{at}/zeta", 1.0)
    publish(root, f"{at}/new", 2.0, f"{at}/zeta")
    publish(root, f"{at}/mix", 3.0, f"{at}/new")
    publish(root, f"{at}/alpha", 4.0, f"{at}/mix")
    publish(root, f"{at}/evaluate/responses", 10.0, f"{at}/alpha")
    publish(root, f"{at}/evaluate/harness", 20.0, f"{at}/alpha")
    publish(root, f"{at}/evaluate", 30.0, f"{at}/evaluate/responses", f"{at}/evaluate/harness")
    publish(root, f"{at}/gate", 99.0, f"{at}/evaluate", stage="gate")


def test_seconds_are_those_of_every_folder_in_the_order_of_the_round(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: made\n")
    a_round(tmp_path, 1)
    (first,) = read_run(tmp_path).rounds
    expected = {"zeta": 1.0, "new": 2.0, "mix": 3.0, "alpha": 4.0, "evaluate": 60.0}
    assert list(first.seconds.items()) == list(expected.items())


def test_the_chart_of_time_names_the_longest_stages_and_sums_up_the_others(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: made\n")
    a_round(tmp_path, 1)
    assert legend(tmp_path) == ["zeta", "new", "mix", "alpha", "evaluate"]
    publish(tmp_path, "round-01/short", 0.5, "round-01/alpha")
    publish(tmp_path, "round-01/shorter", 0.25, "round-01/alpha")
    assert legend(tmp_path) == ["zeta", "new", "mix", "alpha", "evaluate", "other"]
    (figure,) = time_chart(read_run(tmp_path).rounds)
    assert "round 1, other: 0.8 s" in figure.says


def legend(root: Path) -> list[str | None]:
    (figure,) = time_chart(read_run(root).rounds)
    texts = [text.text for text in ElementTree.fromstring(f"<svg>{figure.body}</svg>").iter("text")]
    return texts[texts.index("one bar per round, its total on the right") + 1 : texts.index("round 1")]
