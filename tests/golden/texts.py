"""Golden files: how they are written, read and compared, and the line in CHANGELOG.md that each of them needs."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from storage.manifest import Manifest
from tests.golden.cases import (
    BASE,
    CHECKOUT,
    Refusal,
    Stage,
    dry_plan,
    manifests,
    plan_cases,
    run_rounds,
    workspace,
)
from tests.golden.facts import file_facts, load_weights, plain, sha256

FOLDER = Path(__file__).resolve().parent
CHANGELOG = CHECKOUT / "CHANGELOG.md"
#: Specs, and what files say, of the rounds that are run.
SPECS, FILES = "rounds.yaml", "files.json"
#: Files that only have what differs from the case `base`.
SHORTENED = ("objectives.yaml", "combinations.yaml")
UPDATE = "If this is meant: python -m tests.golden.update"
#: What the update command leaves for a person to fill in.
REASON = "<why it changed>"

_CASE = re.compile(r"^# case: (.+)$", re.MULTILINE)
_STAGE = "--- # stage "


def golden_files() -> list[str]:
    """Names of all golden files that there should be."""
    return [*plan_cases(), SPECS, FILES]


def recorded_cases(name: str) -> dict[str, str]:
    """The text of every case of a golden file."""
    path = FOLDER / name
    parts = _CASE.split(path.read_text(encoding="utf-8"))[1:] if path.exists() else []
    return {case: text.strip("\n") for case, text in zip(parts[::2], parts[1::2], strict=True)}


def recorded_files() -> dict[str, Any]:
    """What the files of every stage say, by stage."""
    path = FOLDER / FILES
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_cases(name: str, cases: Mapping[str, str]) -> None:
    head = "# Written by `python -m tests.golden.update`. CHANGELOG.md says why it changed.\n"
    parts = [f"\n# case: {case}\n{text}\n" for case, text in cases.items()]
    (FOLDER / name).write_text(head + "".join(parts), encoding="utf-8")


def write_files(stages: Mapping[str, Any]) -> None:
    (FOLDER / FILES).write_text(_json(stages, depth=4) + "\n", encoding="utf-8")


def _json(value: Any, depth: int, indent: str = "") -> str:
    """JSON with a line for every entry of the outer `depth` dictionaries."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    inner = indent + " "
    entries = [f"{inner}{json.dumps(name)}: {_json(each, depth - 1, inner)}" for name, each in value.items()]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def plan_text(name: str, words: Sequence[str]) -> str:
    """The plan of one case, as the golden file `name` has it."""
    found = _plan(tuple(words))
    lines = [f"# words: {' '.join(words)}"]
    if isinstance(found, Refusal):
        return "\n".join([*lines, "# refused:", *(f"#   {line}" for line in found.text.splitlines())])
    base = _plan(BASE) if name in SHORTENED else []
    known = [] if isinstance(base, Refusal) else base
    for stage in found:
        text = "# as in base" if stage in known else stage.text.rstrip("\n")
        lines += [f"{_STAGE}{stage.name} in {stage.folder}", text, f"# key {stage.key}"]
    return "\n".join(lines)


@cache
def _plan(words: tuple[str, ...]) -> list[Stage] | Refusal:
    with workspace():
        return dry_plan(words)


def make_rounds(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Run the rounds in `folder`. Returns the specs of either run, and what the files of every stage say."""
    specs, files = {}, {}
    runs = run_rounds(folder)
    start = load_weights(folder / "policy-0" / "model.safetensors")
    for name, run in runs.items():
        stages = manifests(run)
        names = _named(stages)
        texts = []
        for place, manifest in stages.items():
            text = (run / place / "spec.yaml").read_text(encoding="utf-8").rstrip("\n")
            text = text.replace(str(run), "<run>").replace(str(folder), "<folder>")
            texts += [f"{_STAGE}{manifest.stage} in {place}", _with_names(text, names)]
            facts = {entry.path: file_facts(run / place / entry.path, start, folder) for entry in manifest.files}
            files[f"{name} {place}"] = {"rows": manifest.rows, "summary": plain(manifest.summary), "files": facts}
        specs[name] = "\n".join(texts)
    return specs, files


def _named(stages: Mapping[str, Manifest]) -> dict[str, str]:
    """Whose digest it is: the first stage that published these contents, or the initial policy."""
    found = {stages[place].content: f"<{place}>" for place in sorted(stages, reverse=True)}
    return found | {stages["round-00/evaluate"].inputs["initial"]: "<initial policy>"}


def _with_names(text: str, names: Mapping[str, str]) -> str:
    return re.sub("[0-9a-f]{64}", lambda found: names.get(found[0], "<digest>"), text)


def first_difference(recorded: str | None, now: str | None) -> str | None:
    """The first line that differs, and in which stage it is; None where there is none."""
    if recorded is None or now is None:
        return "the case is new" if recorded is None else "the case is gone"
    old, new = recorded.splitlines(), now.splitlines()
    stage, known = "the head", 0
    for number in range(max(len(old), len(new))):
        before, after = (lines[number] if number < len(lines) else "(no line)" for lines in (old, new))
        if before == after:
            if after.startswith(_STAGE):
                stage, known = after.removeprefix(_STAGE), number
            continue
        return f"{stage}, line {number - known}\n  recorded: {before}\n  now:      {after}"
    return None


def changelog_line(name: str) -> str:
    """The line of CHANGELOG.md that a golden file needs, but for its reason."""
    return f"- `tests/golden/{name}` ({sha256((FOLDER / name).read_bytes())[:12]}): "


def has_reason(name: str) -> bool:
    """Whether CHANGELOG.md has that line, and a reason in it."""
    start = changelog_line(name)
    lines = CHANGELOG.read_text(encoding="utf-8").splitlines()
    return any(line.startswith(start) and line.removeprefix(start).strip() not in ("", REASON) for line in lines)
