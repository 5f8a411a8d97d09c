"""What saved forms look like where no style sheet of ours stays: inline, and the same in all."""

from __future__ import annotations

LINE = "1px solid rgba(127,127,127,.28)"
HUES = {
    "run": "#2563c9",
    "wait": "#a06a00",
    "good": "#1d8a58",
    "bad": "#c93a38",
    "warn": "#b06500",
    "quiet": "#697586",
}
"""By how a task stands."""
STAGE_HUES = {
    "done": HUES["good"],
    "running": HUES["run"],
    "waiting": HUES["wait"],
    "failed": HUES["bad"],
    "skipped": HUES["quiet"],
    "odd": HUES["warn"],
}
"""By the stage of a row."""
CARD = f"border:{LINE};border-radius:8px;max-width:60rem;margin:6px 0;overflow:hidden"
HEAD = (
    "display:flex;flex-wrap:wrap;gap:2px 12px;align-items:center;padding:5px 14px;"
    f"border-bottom:{LINE};font-size:12.5px"
)
TABLE = (
    "border-collapse:collapse;width:100%;margin:4px 0 0;font-size:13px;table-layout:fixed;"
    "font-variant-numeric:tabular-nums"
)
CELL = (
    f"padding:4px 10px;border:0;border-bottom:{LINE};text-align:left;white-space:nowrap;"
    "overflow:hidden;text-overflow:ellipsis;max-width:none"
)
NUMBER = CELL.replace("left", "right")


def draw_dot(hue: str) -> str:
    """Return the dot that stands before a state."""
    style = "display:inline-block;align-self:center;width:8px;height:8px;border-radius:50%"
    return f'<i aria-hidden="true" style="{style};background-color:{hue}"></i>'
