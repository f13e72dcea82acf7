"""The documentation site: `make docs`. Needs no network, and nothing on the pages does."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "extensions")]

import fastloss  # noqa: E402

project = "fastloss"
copyright = "the fastloss authors"
release = version = fastloss.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "generated",
    "inventories",
    "mathml",
]
exclude_patterns = ["generated", "extensions"]
nitpicky = True


myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # included files begin at a level of their own

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell of shapes and dtypes, which types do not
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Shapes", "notes_style")]

html_theme = "furo"
html_title = "fastloss"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # which would fetch pages, and files opened without a server cannot
