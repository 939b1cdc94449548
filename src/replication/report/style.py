"""How pages look."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2327; --paper: #fff; --faint: #5d6871; --line: #d9dee3;
  --good: #1a7f4b; --bad: #c0392b; --odd: #8a5f00; --fault: #e8a33d; --blue: #2f6db5; --panel: #f5f7f9;
  --heat: 47, 109, 181; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --paper: #14181b; --faint: #97a2ac;
  --line: #333b42; --good: #4cc38a; --bad: #ff7b6b; --odd: #e0b64c; --fault: #c07f1f; --blue: #6ea8ea;
  --panel: #1c2226; --heat: 80, 140, 210; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1040px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; } p { margin: .3rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--faint); padding: .2rem 0; }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word; max-width: 30rem; }
th { color: var(--faint); font-weight: 500; overflow-wrap: normal; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
ul { margin: .2rem 0; padding-left: 1.2rem; }
.verdict { font-weight: 600; white-space: nowrap; } .passed { color: var(--good); }
.failed { color: var(--bad); }
.not-run { color: var(--odd); } .faint { color: var(--faint); }
code { font-size: .88em; overflow-wrap: anywhere; }
a { color: var(--blue); } .facts { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; margin: .5rem 0; }
.facts b { font-weight: 600; font-variant-numeric: tabular-nums; } .scroll { overflow-x: auto; }
details { background: var(--panel); padding: .4rem .8rem; border-radius: 6px; margin: .8rem 0; }
pre { overflow-x: auto; font-size: .82rem; margin: .4rem 0; } svg.course { width: 100%; min-width: 720px; }
table.heat { width: auto; }
table.heat td { text-align: center; padding: .4rem .7rem; border: 1px solid var(--line);
  font-variant-numeric: tabular-nums; } table.heat th { padding: .4rem .7rem; }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint); } svg .row { text-anchor: end; }
svg .tick { text-anchor: middle; } svg .band { fill: var(--ink); font-weight: 600; }
svg .note { fill: var(--good); }
svg .grid { stroke: var(--line); stroke-width: .5; } svg .base { stroke: var(--faint); stroke-width: .7; }
svg .healed { stroke: var(--good); stroke-dasharray: 4 3; } svg .fault { fill: var(--fault); opacity: .75; }
svg .fault.absent { fill: none; stroke: var(--odd); stroke-dasharray: 3 2; }
svg .effect { stroke: var(--ink); }
svg .decisions { fill: var(--blue); opacity: .8; } svg .latency { fill: var(--blue); opacity: .6; }
svg .unknown { stroke: var(--bad); fill: none; } svg .view { fill: none; stroke-width: 1.4; }
svg .approved { fill: var(--blue); } svg .rejected { fill: var(--fault); }
svg .undecided { fill: var(--faint); }
svg .change { stroke: var(--bad); stroke-width: 1.2; }
svg path.node0 { stroke: #2f6db5; } svg path.node1 { stroke: #c0392b; } svg path.node2 { stroke: #1a9e6b; }
svg path.node3 { stroke: #b07d12; } svg path.node4 { stroke: #8e5bb5; } svg path.node5 { stroke: #d0679d; }
svg path.node6 { stroke: #4aa3a2; } svg path.node7 { stroke: #7d8790; }
svg text.node0 { fill: #2f6db5; } svg text.node1 { fill: #c0392b; } svg text.node2 { fill: #1a9e6b; }
svg text.node3 { fill: #b07d12; } svg text.node4 { fill: #8e5bb5; }
@media print { body { margin: 0; max-width: none; } .scroll { overflow: visible; }
tr { break-inside: avoid; } }
"""
"""Light and dark, by what the reader's system asks for; and on paper."""
