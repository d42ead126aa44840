"""A bar chart as SVG text. Equal input gives equal bytes, and diffs are readable."""

import statistics
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 780, 190, 60, 15, 16, 44
COLORS = ("#9aa5b1", "#1f6fb2", "#d55e00")
TEXT = "#24292f"


def bars(groups: Sequence[tuple[str, Mapping[str, Sequence[float]]]], unit: str) -> str:
    """Return horizontal bars of medians, with a line from the lowest to the highest value.

    Args:
        groups: title and values by contestant; all groups have the same contestants. The label of a group's last
            contestant has the ratio of the first contestant's median to its own.
        unit: of the values.
    """
    names = list(groups[0][1]) if groups else []
    largest = max((max(values) for _, of in groups for values in of.values()), default=1.0)
    scale = (WIDTH - LEFT - RIGHT) / largest
    height = TOP + len(groups) * (len(names) * BAR + GAP) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="13" fill="{TEXT}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for k, name in enumerate(names):
        x = LEFT + 130 * k
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{COLORS[k]}"/>')
        parts.append(_text(x + 18, 25, name))
    parts.append(_text(LEFT - 10, 25, unit, anchor="end"))
    y = TOP
    for title, of in groups:
        parts.append(_text(LEFT - 10, y + len(names) * BAR / 2 + 4, title, anchor="end"))
        first = statistics.median(of[names[0]])
        for k, name in enumerate(names):
            middle, low, high = statistics.median(of[name]), min(of[name]), max(of[name])
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{middle * scale:.1f}" height="{BAR - 2}" fill="{COLORS[k]}"/>'
            )
            if high > low:
                start, end, at = LEFT + low * scale, LEFT + high * scale, y + BAR / 2 - 1
                parts.append(f'<path d="M{start:.1f} {at}H{end:.1f}" stroke="{TEXT}" stroke-width="1.5"/>')
            label = f"{middle:.0f}"
            if name == names[-1] and len(names) > 1:
                label += f" ({first / middle:.1f}×)"
            parts.append(_text(LEFT + high * scale + 6, y + BAR - 4, label))
            y += BAR
        y += GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
