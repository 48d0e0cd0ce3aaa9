"""Sphinx builds the pages of docs/, examples/ and the top folder as a site: make docs. Any warning is an error."""

from sphinx.application import Sphinx

project = "irepo"
author = "the irepo authors"
extensions = ["myst_parser", "autoapi.extension"]

# The source folder is the project's, so that links between pages are the same on the site and in a checkout.
root_doc = "docs/index"
include_patterns = ["docs/*.md", "examples/README.md", "examples/*/README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".venv", ".uv", ".git", "runs", "artifacts", "site"]
myst_heading_anchors = 4
myst_links_external_new_tab = True
suppress_warnings = [
    "misc.highlighting_failure",  # blocks that show words or output are in no language
    "autoapi.python_import_resolution",  # rooms that are left out below
]

# The reference of classes: read from the source, nothing is imported.
autoapi_dirs = ["tasks"]
autoapi_generate_api_docs = False
autoapi_add_toctree_entry = False
autoapi_keep_files = False
autoapi_options = ["members", "undoc-members"]
autoapi_ignore = [
    f"*/tasks/{room}/*" for room in ("cluster", "demo", "labeling", "mixing", "modeling", "reporting", "smollm2")
]

html_theme = "furo"
html_title = "irepo"
html_static_path: list[str] = []
html_show_sourcelink = False
highlight_language = "none"


def _plain_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """A bar in a docstring (pi(y|x)) is a bar, not a substitution of reStructuredText."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _plain_bars)
