"""Matplotlib figures as SVG that follows its page: light or dark, the page's own font, ids that never meet another plot's.

Colours are drawn as they are in light and written as CSS variables with that colour as what counts where nothing defines them
(`fill: var(--steered, #0072b2)`), so that a page darkens its plots with its text, and the file alone is a whole picture. Roles
have the palette of `plots.py`.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from steer_agents.evaluation.plots import COLOURS

INK, SOFT, LINE, PAGE = "#1b1f24", "#57606a", "#d5dae1", "#ffffff"
"""Text, secondary text, rules and background, in light."""
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", PAGE: "page", **{COLOURS[role].lower(): role for role in COLOURS}}
"""Colour of a plot -> name of the page's variable."""
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.labelcolor": SOFT,
}
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_DROPPED = {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}
ElementTree.register_namespace("", _SVG)


def canvas(width: float = 5.4, height: float = 3.2) -> tuple[Figure, Axes]:
    """An empty figure [inches] and its axes, to be used within `rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG: same drawing, same bytes."""
    buffer = io.BytesIO()
    with rc_context({**STYLE, "svg.hashsalt": "steer-agents"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return themed(buffer.getvalue())


def themed(drawn: bytes) -> bytes:
    """Matplotlib's SVG without its own style sheet, fonts and size, its colours as variables, its ids made its own.

    Args:
        drawn: as `savefig(format="svg")` writes it, with texts as texts.
    """
    root = ElementTree.fromstring(drawn)
    own = f"p{hashlib.sha256(drawn).hexdigest()[:8]}-"
    meant = set(re.findall(rb"(?:href=\"|url\()#([^\")]+)", drawn))
    for parent in list(root.iter()):
        for child in [one for one in parent if one.tag in _DROPPED]:
            parent.remove(child)
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name is not None and name.encode() in meant:
            element.set("id", own + name)
        if _LINK in element.attrib:
            link = element.attrib.pop(_LINK)
            element.set("href", f"#{own}{link[1:]}" if link.startswith("#") else link)
        for key in ("clip-path", "style"):
            if key in element.attrib:
                element.set(key, _restyled(element.attrib[key], own))
        for key in ("d", "x", "y", "points"):
            if key in element.attrib:
                element.set(key, _short(" ".join(element.attrib[key].split())))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        element.text, element.tail = (element.text or "").strip() or None, None
    for element in root.iter(f"{{{_SVG}}}g"):
        _hoist(element)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib.pop("version", None)
    return ElementTree.tostring(root, encoding="utf-8")


def _restyled(text: str, own: str) -> str:
    """A style or reference: the page's font and colours, this plot's ids."""
    text = re.sub(r"; (?=$)", "", re.sub(r"font-family: [^;]*;? ?", "", text)).replace("url(#", f"url(#{own}")
    for colour, name in VARIABLES.items():
        text = re.sub(rf"{colour}\b", f"var(--{name}, {colour})", text, flags=re.IGNORECASE)
    return text


def _hoist(group: ElementTree.Element) -> None:
    """Say the style of equal markers once, in their group."""
    styles = {child.get("style", "") for child in group if child.tag == f"{{{_SVG}}}use"}
    if len(group) > 1 and len(styles) == 1 and all(child.tag == f"{{{_SVG}}}use" for child in group):
        group.set("style", styles.pop())
        for child in group:
            child.attrib.pop("style", None)


def _short(numbers: str) -> str:
    """Coordinates to a hundredth of a point."""
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), numbers)
