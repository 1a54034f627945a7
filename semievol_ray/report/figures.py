"""The report's figures as SVG that takes its colours from the page, so that it is light and dark.

Series differ in mark or line as well as in colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semievol_ray.report.corpus import Bin

# Colours that stand for the page's own, by the name of its CSS variable.
_COLOURS = {"ink": "#010101", "muted": "#020202", "first": "#030303", "second": "#040404"}
_INK, _MUTED, _FIRST, _SECOND = _COLOURS.values()
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    # A name of the user's is text: `$` begins no formula.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}
_ENTROPY_BINS = 30


def accuracies(models: dict[str, dict[str, Any]]) -> str:
    """Each model's accuracy with its interval."""

    def draw(axes: Any) -> None:
        names = list(models)[::-1]
        shares = np.array(
            [[100 * models[n][k] for k in ("low", "accuracy", "high")] for n in names]
        )
        spans = np.abs(shares[:, [0, 2]] - shares[:, [1]]).T
        axes.errorbar(shares[:, 1], range(len(names)), xerr=spans, fmt="o", color=_FIRST, capsize=3)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlabel("% of the test rows right")

    return _svg("accuracies", draw, height=0.9 + 0.3 * len(models))


def entropies(
    values: NDArray[np.float64], right: NDArray[np.bool_] | None, threshold: float | None
) -> str:
    """How entropies are spread; where the truth is known, of right and of wrong ones."""

    def draw(axes: Any) -> None:
        # The last hundredth would leave the rest a single bar.
        top = float(np.quantile(values, 0.99)) or 1.0
        edges = np.linspace(0.0, top, _ENTROPY_BINS + 1).tolist()
        if right is None:
            axes.hist(values, edges, color=_FIRST, alpha=0.8)
        else:
            axes.hist(values[right], edges, color=_FIRST, alpha=0.8, label="right")
            axes.hist(
                values[~right], edges, color=_SECOND, histtype="step", linewidth=1.5,
                hatch="///", label="wrong",
            )  # fmt: skip
            axes.legend()
        if threshold is not None and threshold <= top:
            axes.axvline(threshold, color=_INK, linestyle="--", linewidth=1)
            axes.text(threshold, axes.get_ylim()[1], " τ", va="top")
        axes.set_xlabel("entropy of the pseudo-answer, nats a token")
        axes.set_ylabel("rows")

    return _svg("entropies", draw)


def reliability(series: Mapping[str, Sequence[Bin]]) -> str:
    """Confidence against the share that is right; a calibrated model lies on the diagonal."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=_MUTED, linestyle=":", linewidth=1)
        marks = zip(("o", "s", "^"), ("-", "--", "-."), (_FIRST, _SECOND, _INK), strict=True)
        for (name, bins), (mark, line, colour) in zip(series.items(), marks, strict=False):
            axes.plot(
                [b.mean for b in bins], [b.right / b.rows for b in bins],
                marker=mark, linestyle=line, color=colour, label=name,
            )  # fmt: skip
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share right")
        axes.legend(loc="upper left")

    return _svg("reliability", draw)


def agreement(bins: Sequence[Bin]) -> str:
    """Share right by the share of the votes that the pseudo-answer has."""

    def draw(axes: Any) -> None:
        places = range(len(bins))
        axes.bar(places, [100 * b.right / b.rows for b in bins], color=_FIRST, alpha=0.8, width=0.6)
        for place, b in zip(places, bins, strict=True):
            axes.text(place, 2, f"{b.rows:,}", ha="center", fontsize=8)
        axes.set_xticks(list(places), [f"{100 * b.mean:.0f} %" for b in bins])
        axes.set_ylim(0, 100)
        axes.set_xlabel("agreement of the votes (rows in the bar)")
        axes.set_ylabel("% right")

    return _svg("agreement", draw)


def changes(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """The gain of each class in points, with its interval: (name, low, difference, high)."""

    def draw(axes: Any) -> None:
        for place, (_, low, difference, high) in enumerate(reversed(rows)):
            gained = difference >= 0
            axes.plot([low, high], [place, place], color=_MUTED, linewidth=1)
            axes.plot(
                difference, place, "o" if gained else "s", color=_FIRST if gained else _SECOND
            )
        axes.axvline(0, color=_INK, linewidth=1)
        axes.set_yticks(range(len(rows)), [_short(name) for name, *_ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("points gained by evolution (●), lost (■)")

    return _svg("changes", draw, height=0.9 + 0.24 * len(rows))


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _svg(name: str, draw: Callable[[Any], None], height: float = 3.0) -> str:
    # Late: it takes a second, and only reports draw.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = _STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.4, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        sink = io.StringIO()
        FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None})
    return _for_the_page(sink.getvalue(), name)


def _for_the_page(svg: str, name: str) -> str:
    """The `<svg>` alone, as wide as its place, its ids its own, its colours the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    for variable, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
