"""Hooks of mkdocs: a page that loads anything from another site ends the build. The documentation works offline."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

_LOADS = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "link": ("href",),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
}
_NOT_LOADED = {"canonical", "next", "prev", "alternate", "license"}
_ELSEWHERE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_IN_STYLES = re.compile(r"(?:url\(\s*|@import\s+)['\"]?(?:https?:)?//[^)'\"\s]*", re.IGNORECASE)


class _Page(HTMLParser):
    """Collects what a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "link" and values.get("rel", "").lower() in _NOT_LOADED:
            return
        self.found += [values[name] for name in _LOADS.get(tag, ()) if _ELSEWHERE.match(values.get(name, "").strip())]
        self.found += _IN_STYLES.findall(values.get("style", ""))


def elsewhere(html: str) -> list[str]:
    """Return the addresses on other sites that a page loads: scripts, styles, pictures, fonts. Links do not count."""
    page = _Page()
    page.feed(html)
    styles = re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL | re.IGNORECASE)
    return page.found + [found for style in styles for found in _IN_STYLES.findall(style)]


def on_post_build(config: Any, **_: object) -> None:
    """Look at all that was built."""
    site = Path(config["site_dir"])
    pages = sorted(site.rglob("*.html"))
    problems = []
    for page in pages:
        problems += [f"{page.relative_to(site)}: {found}" for found in elsewhere(page.read_text(encoding="utf-8"))]
    for sheet in sorted(site.rglob("*.css")):
        problems += [f"{sheet.relative_to(site)}: {found}" for found in _IN_STYLES.findall(sheet.read_text("utf-8"))]
    if not pages or problems:
        raise PluginError(
            "the site loads from elsewhere: " + "; ".join(problems) if problems else "no pages were built"
        )
