"""Pages: every link leads somewhere, every page is on the site, pictures and quoted errors are current."""

import re
from pathlib import Path

import pytest

from tests.docs.page_commands import PAGES, ROOT

LINK = re.compile(r"\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)?)\)")
PRODUCT = ("conf", "flows", "storage", "tasks")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    plain = [re.sub(r"[`*]|\[|\]\([^)]*\)", "", title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{target} in {page.name}"
        if anchor:
            assert anchor in anchors(file), f"{target} in {page.name}"


def test_every_page_is_on_the_site() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = {line for block in re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL) for line in block.split()}
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages - listed == set()
    assert {"../examples/README", "../CONTRIBUTING", "../CHANGELOG"} <= listed


def test_the_readme_is_one_screen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 75
    assert text.count("![") == 1


def test_the_picture_is_drawn_from_the_demos_table() -> None:
    module: dict[str, object] = {"__file__": str(ROOT / "docs/site/picture.py"), "__name__": "picture"}
    exec((ROOT / "docs/site/picture.py").read_text(encoding="utf-8"), module)  # no package: docs/ holds pages
    draw, page = module["draw"], (ROOT / "docs/demo.md").read_text(encoding="utf-8")
    assert callable(draw)
    assert (ROOT / "docs/pictures/win-rate.svg").read_text(encoding="utf-8") == draw(page), (
        "python docs/site/picture.py"
    )


def test_errors_quoted_in_troubleshooting_are_those_of_the_code() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").split("## Questions")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 12
    texts = [path.read_text(encoding="utf-8") for top in PRODUCT for path in (ROOT / top).rglob("*.py")]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts))
    shown = {"no value for policy.path": "no value for ", "stage train needs": "needs {"}  # names are filled in
    assert [text for text in quoted if shown.get(text, text) not in code] == []
