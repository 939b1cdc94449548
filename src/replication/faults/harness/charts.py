"""The course of a run as one drawing (SVG): faults against decisions, latencies and views, on one axis of
time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from replication.faults.harness.history import Operation, Outcome
from replication.faults.harness.sampling import Sample

__all__ = ["Course", "draw_course"]

WIDTH: Final = 1000
LEFT: Final = 150
RIGHT: Final = 20
ROW: Final = 22
BAND: Final = 90
GAP: Final = 26
BIN_MS: Final = 250
LOWEST_MS: Final = 1.0
"""The latency at the bottom of the logarithmic scale."""

TIME_STEPS: Final = (1, 2, 5, 10, 20, 60, 120, 600, 3600, 7200, 86400)
MOST_TICKS: Final = 12

NODE_COLOURS: Final = 8
"""How many colours of the style sheet tell nodes apart; more nodes share them."""


@dataclass(frozen=True, slots=True)
class Course:
    """What is drawn. Times are milliseconds since the start of the load."""

    operations: Sequence[Operation]
    samples: Sequence[Sample]
    faults: Sequence[Mapping[str, Any]]
    healed_ms: float | None
    end_ms: float


class _Axis:
    """From time to pixels."""

    def __init__(self, end_ms: float) -> None:
        self.end_ms = max(end_ms, 1.0)

    def x(self, at_ms: float) -> float:
        """The place of a moment; moments outside lie at the edge."""
        share = min(max(at_ms / self.end_ms, 0.0), 1.0)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def draw_course(course: Course) -> str:
    """The drawing, with words for those who cannot see it."""
    axis = _Axis(course.end_ms)
    parts: list[str] = []
    top = GAP
    for draw in (_faults, _decisions, _latencies, _views):
        height, drawn = draw(course, axis, top)
        parts += drawn
        top += height + GAP
    parts += _time_scale(axis, top)
    if course.healed_ms is not None:
        x = axis.x(course.healed_ms)
        parts.append(f'<line class="healed" x1="{x}" x2="{x}" y1="{GAP - 14}" y2="{top - GAP + 8}"/>')
        parts.append(f'<text class="note" x="{x + 4}" y="{GAP - 6}">healed</text>')
    return (
        f'<svg class="course" viewBox="0 0 {WIDTH} {top + 18}" role="img" '
        f'aria-label="Faults, decisions, latencies and views over time">{"".join(parts)}</svg>'
    )


def _faults(course: Course, axis: _Axis, top: int) -> tuple[int, list[str]]:
    """A bar for each fault, with a tick for each thing that was seen of it."""
    parts = [_label(top - 8, "faults")]
    for row, fault in enumerate(course.faults):
        y = top + row * ROW
        name = f"{fault['kind']} {', '.join(fault['members'] or fault['targets'])}"
        parts.append(f'<text class="row" x="{LEFT - 8}" y="{y + 13}">{escape(_short(name))}</text>')
        if fault["began_ms"] is None:
            continue
        begin = axis.x(fault["began_ms"])
        end = axis.x(course.end_ms if fault["ended_ms"] is None else fault["ended_ms"])
        state = "fault" if fault["took_effect"] else "fault absent"
        size = f'width="{max(end - begin, 3):.1f}" height="{ROW - 8}"'
        title = f"<title>{escape(name)}</title>"
        parts.append(f'<rect class="{state}" x="{begin}" y="{y + 2}" {size}>{title}</rect>')
        for effect in fault["effects"]:
            x, title = axis.x(effect["at_ms"]), f"<title>{escape(effect['text'])}</title>"
            ends = f'y1="{y + 2}" y2="{y + ROW - 6}"'
            parts.append(f'<line class="effect" x1="{x}" x2="{x}" {ends}>{title}</line>')
    return max(len(course.faults), 1) * ROW, parts


def _decisions(course: Course, axis: _Axis, top: int) -> tuple[int, list[str]]:
    """How many decisions were told in each quarter of a second."""
    bins: dict[int, int] = {}
    for item in course.operations:
        if item.kind == "propose" and item.is_ok and item.end_ms is not None:
            bins[int(item.end_ms // BIN_MS)] = bins.get(int(item.end_ms // BIN_MS), 0) + 1
    most = max(bins.values(), default=1)
    parts = [_label(top - 8, "decisions per second"), *_scale(top, f"{most * 1000 // BIN_MS}", "0")]
    for index, count in sorted(bins.items()):
        height = count / most * BAND
        left, right = axis.x(index * BIN_MS), axis.x((index + 1) * BIN_MS)
        parts.append(
            f'<rect class="decisions" x="{left}" y="{top + BAND - height:.1f}" '
            f'width="{max(right - left - 0.5, 0.5):.1f}" height="{height:.1f}"><title>{count} in '
            f"{index * BIN_MS / 1000:g} to {(index + 1) * BIN_MS / 1000:g} s</title></rect>"
        )
    return BAND, parts


def _latencies(course: Course, axis: _Axis, top: int) -> tuple[int, list[str]]:
    """A dot for each proposal at its end; a cross on the upper edge for one without an answer."""
    proposals = [item for item in course.operations if item.kind == "propose"]
    slowest = max((item.latency_ms or 0.0 for item in proposals), default=0.0)
    highest = 10 ** math.ceil(math.log10(max(slowest, 100.0)))
    parts = [_label(top - 8, "latency (logarithmic)"), *_scale(top, _duration(highest), _duration(LOWEST_MS))]
    for item in proposals:
        x = axis.x(item.end_ms if item.end_ms is not None else course.end_ms)
        if item.latency_ms is not None:
            share = math.log(max(item.latency_ms, LOWEST_MS) / LOWEST_MS) / math.log(highest / LOWEST_MS)
            parts.append(f'<circle class="latency" cx="{x}" cy="{top + BAND * (1 - share):.1f}" r="1.6"/>')
        elif item.outcome is Outcome.UNKNOWN:
            parts.append(
                f'<path class="unknown" d="M{x - 3} {top - 2}l6 6m0 -6l-6 6"><title>{escape(item.error)}'
                "</title></path>"
            )
    return BAND, parts


def _views(course: Course, axis: _Axis, top: int) -> tuple[int, list[str]]:
    """The view of each node over time; a gap where it did not answer."""
    highest = max((sample.view or 0 for sample in course.samples), default=0)
    steps = max(highest, 1)
    parts = [_label(top - 8, "view of each node"), *_scale(top, str(steps), "0")]
    members = list(dict.fromkeys(sample.member for sample in course.samples))
    for index, member in enumerate(members):
        own = [sample for sample in course.samples if sample.member == member]
        path, pen_is_down = "", False
        for sample in own:
            if sample.view is None:
                pen_is_down = False
                continue
            x = axis.x(sample.at_ms)
            y = round(top + BAND * (1 - sample.view / steps) - index * 1.5, 1)
            path += f"H{x}V{y}" if pen_is_down else f"M{x} {y}"
            pen_is_down = True
        title = f"<title>{escape(member)}</title>"
        parts.append(f'<path class="view node{index % NODE_COLOURS}" d="{path}">{title}</path>')
        parts.append(
            f'<text class="row node{index % NODE_COLOURS}" x="{LEFT - 8}" y="{top + 30 + index * 12}">'
            f"{escape(member)}</text>"
            if index < 5
            else ""
        )
    return BAND, parts


def _time_scale(axis: _Axis, top: int) -> list[str]:
    step = next(size for size in TIME_STEPS if axis.end_ms / 1000 / size <= MOST_TICKS)
    parts = []
    for second in range(0, int(axis.end_ms / 1000) + 1, step):
        x = axis.x(second * 1000)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{GAP}" y2="{top - GAP + 8}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{top}">{second} s</text>')
    return parts


def _scale(top: int, highest: str, lowest: str) -> list[str]:
    return [
        f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top + BAND}" y2="{top + BAND}"/>',
        f'<text class="row" x="{LEFT - 8}" y="{top + 8}">{escape(highest)}</text>',
        f'<text class="row" x="{LEFT - 8}" y="{top + BAND}">{escape(lowest)}</text>',
    ]


def _label(y: int, text: str) -> str:
    return f'<text class="band" x="{LEFT}" y="{y}">{escape(text)}</text>'


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1000:g} s" if milliseconds >= 1000 else f"{milliseconds:g} ms"


def _short(text: str) -> str:
    return text if len(text) <= 22 else f"{text[:21]}…"
