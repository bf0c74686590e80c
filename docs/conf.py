"""Configuration of the documentation's site: ``python -m sphinx -W -b html docs build/site``.

Nothing is fetched, neither by the build nor by a reader's browser. The pages in this folder are
also read on GitHub; `_ext/repository.py` adapts their links.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs/_ext"))

import fused_rmsprop  # noqa: E402 - the installed one

project = "fused-rmsprop"
author = "The fused-rmsprop developers"
copyright = author  # noqa: A001 - Sphinx's name
version = release = fused_rmsprop.__version__

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "repository",
]
exclude_patterns = ["README.md", "_ext"]
suppress_warnings = ["config.cache"]  # the gallery's configuration holds functions
highlight_language = "none"
default_role = "py:obj"  # names in docstrings; those without a page stay as they are
nitpicky = False

# What scripts of the gallery import, for readers to save.
rst_epilog = """
.. |optimizers.py| replace:: :download:`optimizers.py </../examples/gallery/optimizers.py>`
"""

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # GitHub's

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings have the types, with shapes and dtypes
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False  # autodoc lists them
add_module_names = False
toc_object_entries_show_parents = "hide"
python_display_short_literal_types = True

sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples/gallery"),
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",  # all are run
    "ignore_pattern": r"(__init__|optimizers)\.py$",  # what examples import
    "within_subsection_order": "gallery_order.position",
    "image_scrapers": ("gallery_scrapers.animations", "matplotlib"),
    "show_signature": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "thumbnail_size": (400, 280),
    "plot_gallery": "True",
    "min_reported_time": 60,
    "show_memory": False,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "fused-rmsprop"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_sidebars = {"index": [], "project/benchmarks": []}
html_show_sourcelink = False
html_theme_options = {
    "github_url": "https://github.com/fused-rmsprop/fused-rmsprop",
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
