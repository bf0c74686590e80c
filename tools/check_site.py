"""Check the built documentation: ``python tools/check_site.py build/site``.

Every link within the site leads to a page and a place in it, pictures are there, a page leads to
every page, the reference has every public name, and no page makes a browser load anything from the
net.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes whose target a browser loads by itself, in any element.
LOADED = ("src", "srcset", "poster", "data", "background")
#: Kinds of ``<link>`` that only name another page.
NAMED = {"alternate", "author", "canonical", "index", "license", "next", "prev", "search", "up"}
#: Pages that nothing links to.
ALONE = {"genindex.html", "py-modindex.html", "search.html"}
IN_CSS = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


class Page(HTMLParser):
    """What a page loads, where it leads, and the places that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.places: set[str] = set()
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Read the attributes of an element."""
        found = {name: value or "" for name, value in attributes}
        self._in_style = tag == "style"
        self.places |= {found[name] for name in ("id", "name") if name in found}
        self.loads += [found[name] for name in LOADED if name in found and tag != "meta"]
        self.loads += in_css(found.get("style", ""))
        if "href" in found:
            only_named = tag in ("a", "area") or found.get("rel") in NAMED
            (self.leads if only_named else self.loads).append(found["href"])

    def handle_data(self, data: str) -> None:
        """Read the text of a style sheet."""
        if self._in_style:
            self.loads += in_css(data)


def in_css(text: str) -> list[str]:
    """Return the targets that a style sheet loads."""
    return [url or imported for url, imported in IN_CSS.findall(text)]


def outside(target: str) -> bool:
    """Whether a target is on the net."""
    return bool(urlsplit(target).netloc)


def faults(site: Path) -> Iterator[str]:
    """Describe all faults of a site."""
    files = (path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in files}
    if site / "index.html" not in pages:
        yield "there is no index.html"
    linked = {site / "index.html"}
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        for target in page.loads:
            if outside(target):
                yield f"{name} loads {target}"
        for target in [*page.loads, *page.leads]:
            parts = urlsplit(target)
            if outside(target) or parts.scheme in ("data", "mailto", "javascript"):
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if file != path:
                linked.add(file)
            if not file.is_file():
                yield f"{name}: there is no {target}"
            elif parts.fragment and file in pages:
                if unquote(parts.fragment) not in pages[file].places:
                    yield f"{name}: there is no place {target}"
    for path in pages.keys() - linked:
        if path.name not in ALONE:
            yield f"{path.relative_to(site).as_posix()}: no page leads there"
    for sheet in sorted(site.rglob("*.css")):
        for target in in_css(sheet.read_text(encoding="utf-8")):
            if outside(target):
                yield f"{sheet.relative_to(site).as_posix()} loads {target}"


def public_names() -> Iterator[str]:
    """The names of the package, of its public modules, and of the methods of its optimizers."""
    import fused_rmsprop

    base = fused_rmsprop.RMSProp
    modules = [info.name for info in pkgutil.iter_modules(fused_rmsprop.__path__)]
    for name in ["", *(f".{name}" for name in modules if not name.startswith("_"))]:
        module = importlib.import_module(f"fused_rmsprop{name}")
        for public in getattr(module, "__all__", ()):
            if public == "__version__":
                continue
            yield f"{module.__name__}.{public}"
            for one in dir(found := getattr(module, public)) if public.lower() == "rmsprop" else ():
                bases = getattr(found, "__mro__", ())
                owners = [c for c in bases if one in vars(c)]
                if base in bases[1:] and owners[0] in base.__mro__:
                    continue  # has its place there
                if owners and owners[0].__module__.startswith("fused_rmsprop"):
                    if not one.startswith("_"):
                        yield f"{module.__name__}.{public}.{one}"


def undocumented(site: Path) -> Iterator[str]:
    """Describe the public names that the reference lacks."""
    pages = (site / "reference").glob("*.html")
    places = set().union(*(Page(page.read_text(encoding="utf-8")).places for page in pages))
    for name in public_names():
        if name not in places:
            yield f"the reference lacks {name}"


def main(folder: str) -> None:
    """Print the faults, and fail if there are any."""
    site = Path(folder).resolve()
    found = [*faults(site), *undocumented(site)]
    print(*found, sep="\n", end="\n" * bool(found))
    count = len(list(site.rglob("*.html")))
    print(f"{count} pages, {len(found)} faults")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
