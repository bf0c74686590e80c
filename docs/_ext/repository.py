"""Pages and links that leave the folder ``docs``, where GitHub's readers follow them.

Before the build, each page in `PAGES` is copied into ``docs/project``, which git ignores. In all
Markdown pages, a link to one of them leads to its copy, and a link to another file of the
repository leads to GitHub. A link to a file that is not there is a warning.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent.parent
GITHUB = "https://github.com/fused-rmsprop/fused-rmsprop"
#: By file of the repository, the page of the site.
PAGES = {
    "bench/README.md": "project/benchmarks.md",
    "examples/README.md": "project/examples.md",
    "tests/fuzz/README.md": "project/fuzzers.md",
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
}
#: Where links to the index pages for GitHub, and to the sources of the gallery, lead.
INDEX = dict.fromkeys(("README.md", "docs/README.md"), "index.md")
INDEX["examples/gallery"] = "gallery/index.rst"

#: A block of code, or the target of a link that is not a URL.
_CODE_OR_LINK = re.compile(
    r"^(?P<fence>`{3,}).*?^(?P=fence)$|(?<=\]\()(?!\w+:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))",
    re.DOTALL | re.MULTILINE,
)


def rewrite(text: str, file: str, page: str) -> str:
    """Return the text of a file of the repository with the links that its page needs.

    Both names are relative: ``file`` to the repository, ``page`` to ``docs``.
    """

    def target(found_text: re.Match[str]) -> str:
        if found_text["fence"]:
            return found_text[0]
        path, anchor = found_text["path"], found_text["anchor"] or ""
        found = os.path.normpath(os.path.join(os.path.dirname(file), path)).replace(os.sep, "/")
        on_disk = ROOT / found
        if not on_disk.exists():
            from sphinx.util import logging  # the tests need no Sphinx

            logging.getLogger(__name__).warning("%s: there is no %s", file, path)
        if found in PAGES or found in INDEX:
            found = f"docs/{PAGES.get(found) or INDEX[found]}"
        elif on_disk.suffix != ".png" and not found.startswith("docs/"):
            return f"{GITHUB}/{'tree' if on_disk.is_dir() else 'blob'}/main/{found}{anchor}"
        return os.path.relpath(found, os.path.dirname(f"docs/{page}")).replace(os.sep, "/") + anchor

    return _CODE_OR_LINK.sub(target, text)


def copy_pages(app: Sphinx) -> None:
    """Write the copies; one that has not changed keeps its date, and is not read again."""
    for file, page in PAGES.items():
        text = rewrite((ROOT / file).read_text(encoding="utf-8"), file, page)
        copy = Path(app.srcdir) / page
        copy.parent.mkdir(exist_ok=True)
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")


def adapt(app: Sphinx, page: str, source: list[str]) -> None:
    """Rewrite the links of a page of this folder."""
    path = Path(app.env.doc2path(page))
    if path.suffix == ".md" and f"{page}.md" not in PAGES.values():
        source[0] = rewrite(source[0], f"docs/{page}.md", f"{page}.md")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the two."""
    app.connect("builder-inited", copy_pages)
    app.connect("source-read", adapt)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
