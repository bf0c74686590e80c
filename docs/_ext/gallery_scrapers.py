"""Animations of the gallery as GIF files; the gallery's own way loads fonts from the net."""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.animation import Animation
from sphinx_gallery.scrapers import figure_rst


def animations(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the animations whose figure is open, and close it, so that no picture follows."""
    files = []
    for value in list(block_vars["example_globals"].values()):
        if not isinstance(value, Animation):
            continue
        figure = vars(value)["_fig"]
        if plt.fignum_exists(figure.number):
            file = str(next(block_vars["image_path_iterator"])).removesuffix("png") + "gif"
            value.save(file, writer="pillow")
            plt.close(figure)
            files.append(file)
    return str(figure_rst(files, gallery_conf["src_dir"])) if files else ""
