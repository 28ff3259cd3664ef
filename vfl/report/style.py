"""The style sheet of the report: light, dark by the reader's preference, always light on paper."""

__all__ = ["STYLE"]

STYLE = """
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5a6576; --rule: #dfe3ea; --grid: #e9ecf1;
  --main: #1f5fd1; --alt1: #b45309; --alt2: #596579; --alt3: #0f766e;
  --open: #9a3412; --open-back: #fdeee3; --result: #1d4f9e; --result-back: #e7effc;
  --none: #276245; --none-back: #e6f3ec; --note: #fff8e6; --note-rule: #e0b64a;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #11151c; --card: #191f29; --ink: #e6e9ef; --soft: #9ba6b6; --rule: #2d3645; --grid: #262e3b;
    --main: #7aa7ff; --alt1: #f0a35e; --alt2: #a3afc0; --alt3: #58cdb8;
    --open: #ffb68a; --open-back: #3c2517; --result: #a3c3ff; --result-back: #1b2c4a;
    --none: #8fd6b0; --none-back: #173226; --note: #2b2514; --note-rule: #8f7327;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%;
}
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.25rem 3rem; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; text-wrap: balance; }
h2 { margin: 0 0 0.75rem; font-size: 1.25rem; line-height: 1.3; letter-spacing: -0.005em; }
p { margin: 0 0 0.9rem; max-width: 46rem; }
code { font: 0.86em/1.5 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.eyebrow { margin: 0 0 0.4rem; color: var(--soft); font-size: 0.85rem; }
.lead { max-width: none; margin: 0.6rem 0 0.2rem; font-size: 1.08rem; }
.muted, .explain { color: var(--soft); font-size: 0.9rem; }
section, .notes {
  margin-top: 1.25rem; padding: 1.5rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px;
}
.notes { background: var(--note); border-color: var(--note-rule); }
.notes h2 { font-size: 1.05rem; margin-bottom: 0.4rem; }
.notes ul { margin: 0; padding-left: 1.2rem; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1px; margin: 1.5rem 0 0;
  background: var(--rule); border: 1px solid var(--rule); border-radius: 10px; overflow: hidden;
}
.tiles div { display: flex; flex-direction: column; padding: 1rem 1.25rem; background: var(--card); }
.tiles dt { color: var(--soft); font-size: 0.86rem; }
.tiles dd { margin: 0; font-size: 1.75rem; line-height: 1.35; font-weight: 600; letter-spacing: -0.02em; }
.tiles dd.small { font-size: 0.86rem; font-weight: 400; letter-spacing: 0; color: var(--soft); }
.statement { font-size: 1.08rem; }
.scroll { overflow-x: auto; margin: 1.6rem 0 0; }
table { width: 100%; border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
caption { padding: 0 0 0.5rem; text-align: left; font-weight: 600; }
th, td { padding: 0.45rem 0.9rem 0.45rem 0; text-align: left; vertical-align: top; }
th, td { border-top: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0; }
thead th { border-top: 0; border-bottom: 1px solid var(--soft); color: var(--soft); font-weight: 500; }
thead th { vertical-align: bottom; }
tbody tr:first-child > * { border-top: 0; }
tbody th { font-weight: 500; }
tbody th code, tfoot th { white-space: nowrap; }
.text { display: block; min-width: 15rem; }
.n { text-align: right; white-space: nowrap; }
tfoot th, tfoot td { border-top: 1px solid var(--soft); font-weight: 600; }
.kind { display: block; min-width: 8.5rem; }
.chip {
  display: inline-block; margin-top: 0.15rem; padding: 0.05rem 0.5rem; border-radius: 99px; font-size: 0.78rem;
  font-weight: 500; white-space: nowrap;
}
.chip.open { color: var(--open); background: var(--open-back); }
.chip.result { color: var(--result); background: var(--result-back); }
.chip.none { color: var(--none); background: var(--none-back); }
.bar { display: block; height: 0.6rem; margin-top: 0.45rem; min-width: 2px; background: var(--main); }
.track { display: block; min-width: 7rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.25rem; margin-top: 0.5rem; }
.plots.one { grid-template-columns: minmax(17rem, 22rem); }
figure { margin: 0; }
figcaption { margin-bottom: 0.4rem; font-size: 0.86rem; color: var(--soft); }
figcaption b { display: block; font-size: 0.95rem; font-weight: 600; color: var(--ink); }
figure svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums; }
svg .label { fill: var(--ink); font-size: 12px; }
.grid { stroke: var(--grid); }
.axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.line.main { stroke: var(--main); stroke-width: 2.6; }
.line.alt1 { stroke: var(--alt1); stroke-dasharray: 7 4; }
.line.alt2 { stroke: var(--alt2); stroke-dasharray: 1.5 4; stroke-width: 2.2; }
.line.alt3 { stroke: var(--alt3); stroke-dasharray: 9 3 2 3; }
.line.chance { stroke: var(--soft); stroke-width: 1; opacity: 0.55; }
.dot.main { fill: var(--main); }
.dot.alt1 { fill: var(--alt1); }
.dot.alt2 { fill: var(--alt2); }
.dot.alt3 { fill: var(--alt3); }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; margin: 1.5rem 0 0.75rem; padding: 0; list-style: none; }
.legend li { display: flex; align-items: center; gap: 0.5rem; font-size: 0.92rem; }
.legend svg { width: 28px; height: 12px; flex: none; }
dl.words { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1rem; margin: 1rem 0 0; }
dl.words { font-size: 0.9rem; }
dl.words dt { font-weight: 500; }
dl.words dd { margin: 0; color: var(--soft); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 0 2.5rem; }
.after { margin-top: 1rem; }
footer { margin-top: 1.5rem; color: var(--soft); font-size: 0.88rem; }
@media (max-width: 36rem) {
  main { padding: 1.5rem 0.75rem 2rem; }
  section, .notes { padding: 1.1rem; }
  h1 { font-size: 1.6rem; }
}
@media print {
  :root { --page: #ffffff; }
  @page { margin: 16mm 14mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  section { padding: 0; margin-top: 1.6rem; border: 0; }
  h2, caption { break-after: avoid; }
  figure, tr, .tiles, .notes { break-inside: avoid; }
  .scroll { overflow: visible; margin-top: 1.1rem; }
  .text { min-width: 0; }
  table, dl.words { font-size: 0.86rem; }
  .plots { grid-template-columns: repeat(3, 1fr); }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .tiles dd { font-size: 1.4rem; }
  th, td { padding-top: 0.3rem; padding-bottom: 0.3rem; }
  .bar, .chip, .tiles, .notes { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
