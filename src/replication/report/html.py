"""The frame of every page: one HTML file that loads nothing, runs nothing, and shows the text of strangers as
text."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from replication.errors import OperatorError
from replication.report.style import STYLE

__all__ = [
    "Markup",
    "bullets",
    "document",
    "facts",
    "join",
    "milliseconds",
    "moment",
    "number",
    "save",
    "table",
    "text",
    "verdict",
]

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""For the browser: whatever got into the page, it runs nothing and asks nobody."""

_UNSHOWN: Final = "\N{REPLACEMENT CHARACTER}"
"""For control characters, and for those that turn the direction of what follows."""


class Markup(str):
    """Text that is HTML already. Anything else is escaped before it gets into a page."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as it stands in a page; "-" for None."""
    if isinstance(value, Markup):
        return value
    shown = "-" if value is None else str(value)
    return Markup(
        escape("".join(char if char.isprintable() or char in "\n\t" else _UNSHOWN for char in shown))
    )


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Several one after another."""
    return Markup(text(between).join(map(text, parts)))


def document(title: str, body: Iterable[Markup]) -> str:
    """The whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body>{join(body)}</body></html>\n"
    )


def save(path: Path, page: str) -> None:
    """Write a page to a file. Raises `OperatorError` if that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{path} could not be written: {error.strerror}. Check the folder.") from error


def table(heads: Sequence[str], rows: Iterable[Iterable[object]], caption: str = "") -> Markup:
    """A table. A head that begins with ">" is of numbers, which stand at the right."""
    styles = [' class="number"' if head.startswith(">") else "" for head in heads]
    names = [text(head.removeprefix(">")) for head in heads]
    head = "".join(f'<th scope="col"{style}>{name}</th>' for style, name in zip(styles, names, strict=True))
    body = "".join(f"<tr>{_cells(styles, row)}</tr>" for row in rows)
    above = f"<caption>{text(caption)}</caption>" if caption else ""
    return Markup(
        f'<div class="scroll"><table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cells(styles: Sequence[str], row: Iterable[object]) -> str:
    return "".join(f"<td{style}>{text(cell)}</td>" for style, cell in zip(styles, row, strict=True))


def bullets(items: Sequence[object], style: str = "") -> Markup:
    """A list, empty for no items. `style` is a verdict, in its colour."""
    if not items:
        return Markup("")
    inner = "".join(f"<li>{text(item)}</li>" for item in items)
    return Markup(f'<ul class="{text(style.replace(" ", "-"))}">{inner}</ul>')


def facts(values: Mapping[str, object]) -> Markup:
    """Names and values in a row."""
    shown = "".join(f"<span>{text(name)} <b>{text(value)}</b></span>" for name, value in values.items())
    return Markup(f'<div class="facts">{shown}</div>')


def verdict(word: str, style: str = "") -> Markup:
    """A word that stands out, coloured as passed, failed or not run; `style` if the word is another one."""
    return Markup(
        f'<span class="verdict {text((style or word).replace(" ", "-"))}">{text(word.upper())}</span>'
    )


def number(value: object) -> Markup:
    """A number with its thousands apart."""
    return text(f"{value:,}" if isinstance(value, int) else value)


def moment(at_ms: float, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """A time since the Unix epoch; what no calendar has, in milliseconds."""
    try:
        return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return f"{at_ms:.0f} ms"


def milliseconds(value: float | None) -> str | None:
    """A duration, None where there is none."""
    if value is None:
        return None
    if value < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.2f} s" if value < 120_000 else f"{value / 60_000:.1f} min"
