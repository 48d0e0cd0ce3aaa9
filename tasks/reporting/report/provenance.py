"""The run's lineage as a table: what each stage read, and with which versions. Files are not hashed."""

from storage.lineage import Input, Run
from tasks.reporting.duration import duration
from tasks.reporting.report.drawing import text
from tasks.reporting.report.tables import Cell, sheet

_SHORT = 12  # hex digits of a digest that are shown


def provenance(run: Run) -> str:
    if not run.stages:
        return ""
    rows: list[list[Cell]] = []
    for name, stage in run.stages.items():
        manifest = stage.manifest
        inputs = [(read.kind != "lost", _input(read)) for read in run.inputs(name)]
        rows.append(
            [name, manifest.content[:_SHORT], manifest.started, duration(manifest.seconds), str(manifest.seed),
             ("", inputs)]
        )  # fmt: skip
    versions = sorted({_versions(stage.manifest.versions) for stage in run.stages.values()})
    made = "".join(f"<p>Made with {text(libraries)}.</p>" for libraries in versions)
    unreadable = "".join(f'<p class="broken">{text(why)}</p>' for why in run.unreadable.values())
    note = (
        "A digest identifies what a stage produced: equal digests mean equal files. This report does not check them; "
        "python -m storage.explain does, and shows settings. The whole configuration is config.yaml in the run folder."
    )
    headings = ["stage", "content", "started (UTC)", "took", "seed", "read"]
    table = sheet(headings, rows, words=True)
    folded = f"<details><summary>What each of {len(rows)} stages read</summary>{made}{table}</details>"
    return f'{unreadable}{folded}<p class="quiet">{note}</p>'


def _input(read: Input) -> str:
    source = {"stage": read.stage, "lost": read.problem}.get(read.kind)
    source = source or f"{read.digest[:_SHORT]}{f' of {read.path}' if read.path else ''}"
    return f"{', '.join(read.names)}: {source}"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
