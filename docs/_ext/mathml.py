"""Formulas as MathML, which browsers draw themselves: no script and no fonts to load.

Docutils converts them. (Its own HTML writer does the same; Sphinx' has only MathJax and images.)
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging


def _convert(node: nodes.Element, display: bool) -> str:
    try:
        return str(latex2mathml.tex2mathml(node.astext(), as_block=display))
    except MathError as error:
        logging.getLogger(__name__).warning("formula: %s", error, location=node)
        return ""


def visit_inline(writer: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    writer.body.append(_convert(node, display=False))
    raise nodes.SkipNode


def visit_block(writer: Any, node: nodes.math_block) -> None:
    """Write a formula that stands alone; one that is too wide scrolls."""
    writer.body.append(f'<div class="formula">{_convert(node, display=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer and choose it."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
