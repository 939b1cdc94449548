"""Decisions over time as one drawing (SVG), with the moments at which another coordinator took over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from replication.report.html import Markup, moment, text
from replication.report.story import Story

__all__ = ["draw_decisions"]

WIDTH: Final = 1000
LEFT: Final = 60
RIGHT: Final = 20
TOP: Final = 24
HEIGHT: Final = 110
BARS: Final = 80
TICKS: Final = 5

STACK: Final = {
    "approved": ("approved",),
    "rejected": ("rejected",),
    "undecided": ("no_quorum", "expired"),
}
"""From the bottom: how each part looks, and what it counts."""


def draw_decisions(story: Story) -> Markup:
    """Bars of equal time, each with what was approved, rejected, and ended without a decision."""
    known = [at for case in story.cases for at in (case.proposed_ms, case.decided_ms) if at is not None]
    begin = min(known, default=story.begin_ms)
    end = max(story.end_ms, begin + 1)
    width = (end - begin) / BARS
    bars: dict[int, Counter[str]] = {}
    for case in story.cases:
        if case.decided_ms is not None:
            index = min(BARS - 1, max(0, int((case.decided_ms - begin) / width)))
            bars.setdefault(index, Counter())[case.state] += 1
    most = max((count.total() for count in bars.values()), default=1)
    parts = [*_frame(most), *_legend(), *_clock(begin, end)]
    for index, count in sorted(bars.items()):
        parts += _bar(index, count, most)
    for turn in story.turns:
        if turn.time_ms >= begin:
            x = _x((turn.time_ms - begin) / (end - begin))
            title = f"<title>view {turn.view}: {text(turn.coordinator)}</title>"
            parts.append(
                f'<line class="change" x1="{x}" x2="{x}" y1="{TOP - 4}" y2="{TOP + HEIGHT}">{title}</line>'
            )
    label = "Decisions over time, with changes of the coordinator"
    return Markup(
        f'<div class="scroll"><svg class="course" viewBox="0 0 {WIDTH} {TOP + HEIGHT + 24}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg></div>'
    )


def _x(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _bar(index: int, count: Counter[str], most: int) -> Iterable[str]:
    left, right = _x(index / BARS), _x((index + 1) / BARS)
    below = 0
    for style, states in STACK.items():
        number = sum(count[state] for state in states)
        if not number:
            continue
        height = number / most * HEIGHT
        y = TOP + HEIGHT - below / most * HEIGHT - height
        below += number
        yield (
            f'<rect class="{style}" x="{left}" y="{y:.1f}" width="{max(right - left - 1, 1):.1f}" '
            f'height="{height:.1f}"><title>{number} {style}</title></rect>'
        )


def _frame(most: int) -> Iterable[str]:
    yield f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{TOP + HEIGHT}" y2="{TOP + HEIGHT}"/>'
    yield f'<text class="row" x="{LEFT - 8}" y="{TOP + 8}">{most}</text>'
    yield f'<text class="row" x="{LEFT - 8}" y="{TOP + HEIGHT}">0</text>'


def _legend() -> Iterable[str]:
    x = LEFT
    for style, words in (
        ("approved", "approved"),
        ("rejected", "rejected"),
        ("undecided", "no quorum, expired"),
    ):
        yield f'<rect class="{style}" x="{x}" y="2" width="10" height="10"/>'
        yield f'<text x="{x + 15}" y="11">{words}</text>'
        x += 110
    x += 40
    yield f'<line class="change" x1="{x}" x2="{x}" y1="1" y2="13"/>'
    yield f'<text x="{x + 8}" y="11">another coordinator</text>'


def _clock(begin: int, end: int) -> Iterable[str]:
    form = "%m-%d %H:%M" if end - begin > 2 * 86_400_000 else "%H:%M:%S"
    for tick in range(TICKS + 1):
        at = moment(begin + (end - begin) * tick / TICKS, form)
        anchor = {0: "start", TICKS: "end"}.get(tick, "middle")
        place = f'x="{_x(tick / TICKS)}" y="{TOP + HEIGHT + 16}" style="text-anchor:{anchor}"'
        yield f"<text {place}>{at}</text>"
