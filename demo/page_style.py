"""The page's style sheet: follows the reader's light or dark setting, fits a phone and a sheet of paper."""

STYLE = """
:root {
  --ink: #1d2330; --faint: #5d6678; --paper: #fbfaf7; --card: #ffffff; --edge: #dedcd4;
  --first: #2f5d8a; --second: #b4562d; --right: #1f7a4d; --right-card: #e8f5ee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8e6df; --faint: #a3a9b6; --paper: #15181e; --card: #1e222a; --edge: #353b47;
    --first: #86b6e6; --second: #eb9a72; --right: #6fcf9c; --right-card: #1c3529;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--edge); }
.lead { font-size: 1.05rem; color: var(--faint); margin: 0; max-width: 46rem; }
.note, small, caption { color: var(--faint); font-size: .85rem; }
.note { margin: .4rem 0; max-width: 46rem; }
a { color: var(--first); }

.tables, .charts {
  display: grid; gap: 1.5rem 2.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
}
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td {
  text-align: right; white-space: nowrap; padding: .3rem .4rem; border-bottom: 1px solid var(--edge);
  font-weight: normal;
}
th:first-child { text-align: left; }
thead th { color: var(--faint); font-size: .85rem; }
td { font-weight: 600; }
tr.faint > * { font-weight: normal; color: var(--faint); }

.chart { width: 100%; height: auto; }
.chart text { fill: var(--faint); font-size: 13px; }
.chart .title { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--edge); fill: none; }
.line { fill: none; stroke: var(--first); stroke-width: 2.2; stroke-linejoin: round; }
.line-1 { stroke: var(--second); stroke-dasharray: 7 4; }

.query {
  display: grid; grid-template-columns: 11rem 1fr; gap: .4rem 1rem; align-items: center; padding: .7rem 0;
  border-bottom: 1px solid var(--edge); break-inside: avoid;
}
.query h3 { font-size: 1rem; margin: 0; display: flex; align-items: center; gap: .6rem; overflow-wrap: anywhere; }
.by-text h3 span::before { content: "“"; } .by-text h3 span::after { content: "”"; }
.query ol {
  list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem; grid-template-columns: repeat(6, minmax(0, 1fr));
}
.query li {
  display: flex; flex-direction: column; align-items: center; gap: .15rem; text-align: center;
  padding: .5rem .35rem; background: var(--card); border: 1px solid var(--edge); border-radius: .5rem;
  line-height: 1.25; font-size: .9rem; overflow-wrap: anywhere;
}
.query li small:last-child { margin-top: auto; font-variant-numeric: tabular-nums; }
.query li.right { background: var(--right-card); border: 2px solid var(--right); }
.mark { color: var(--right); white-space: nowrap; font-size: .85rem; }
img { width: 64px; height: 64px; object-fit: contain; background: #fff; border-radius: .35rem; padding: 4px; }
img[src^="data:image/jpeg"] { width: 100%; max-width: 8rem; height: 6rem; object-fit: cover; padding: 0; }
h3 img[src^="data:image/jpeg"] { width: 8rem; flex: none; }

pre {
  margin: 0 0 .6rem; padding: .6rem .8rem; overflow-x: auto; background: var(--card); border: 1px solid var(--edge);
  border-radius: .4rem; font: .8rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
footer { font-size: .9rem; color: var(--faint); }
footer ul { padding-left: 1.1rem; }

@media (max-width: 40rem) {
  .query { grid-template-columns: 1fr; }
  .query ol { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .query li { font-size: .82rem; }
  th, td { padding: .3rem .2rem; font-size: .92rem; }
}
@media print {
  :root {
    --ink: #000; --faint: #444; --paper: #fff; --card: #fff; --edge: #bbb;
    --first: #2f5d8a; --second: #b4562d; --right: #1f7a4d; --right-card: #fff;
  }
  body { max-width: none; padding: 0; font-size: 11px; }
  .query { padding: .3rem 0; }
  .query li { padding: .2rem; }
  img { width: 40px; height: 40px; padding: 0; }
  pre { white-space: pre-wrap; break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""
