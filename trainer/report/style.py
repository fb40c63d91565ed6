"""The page's style sheet: follows the reader's light or dark setting, fits a phone and a sheet of paper."""

STYLE = """
:root {
  --ink: #1d2330; --faint: #5d6678; --paper: #fbfaf7; --card: #ffffff; --edge: #dedcd4;
  --first: #2f5d8a; --second: #b4562d; --third: #4d7c3f; --fourth: #7d4f93;
  --right: #1f7a4d; --right-card: #e8f5ee; --bar: #e9ecf1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8e6df; --faint: #a3a9b6; --paper: #15181e; --card: #1e222a; --edge: #353b47;
    --first: #86b6e6; --second: #eb9a72; --third: #9ccc8a; --fourth: #c9a0dd;
    --right: #6fcf9c; --right-card: #1c3529; --bar: #2a303b;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--edge); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
.lead { font-size: 1.05rem; color: var(--faint); margin: 0; max-width: 46rem; overflow-wrap: anywhere; }
.note, small, caption { color: var(--faint); font-size: .85rem; }
.note { margin: .4rem 0 .8rem; max-width: 46rem; overflow-wrap: anywhere; }

.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.tiles div {
  padding: .7rem .9rem; background: var(--card); border: 1px solid var(--edge);
  border-radius: .5rem; display: flex; flex-direction: column; break-inside: avoid;
}
.tiles b { font-size: 1.35rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span { font-size: .9rem; } .tiles small { margin-top: auto; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .9rem; }
nav a { color: var(--first); }

.charts, .tables {
  display: grid; gap: 1.5rem 2.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
}
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.stack { display: block; }
.stack + .charts { margin-top: 1.6rem; }
.wide { overflow-x: auto; }
.stack .wide + .wide { margin-top: 1.3rem; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td {
  text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--edge); font-weight: normal;
  vertical-align: baseline;
}
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--faint); font-size: .85rem; }
td { font-weight: 600; white-space: nowrap; }
.stack td:nth-last-child(-n+2) { font-weight: normal; color: var(--faint); }
.facts th, .facts td { text-align: left; }
.facts td { white-space: normal; overflow-wrap: anywhere; font-weight: normal; min-width: 8rem; }
.facts th { color: var(--faint); min-width: 7rem; }
.bars td { font-weight: normal; text-align: left; white-space: normal; overflow-wrap: anywhere; }
.bars th { text-align: left; }
.bars td:first-child, .bars th:first-child { padding-left: 0; }
.bars td:last-child { width: 50%; min-width: 9rem; white-space: nowrap; }
.bar { display: inline-block; width: calc(100% - 5rem); height: .7rem; background: var(--bar); border-radius: .2rem; }
.bar i { display: block; height: 100%; background: var(--first); border-radius: .2rem; }
.bars b { display: inline-block; width: 4.9rem; text-align: right; font-weight: 600; }

.chart { width: 100%; height: auto; break-inside: avoid; }
.chart text { fill: var(--faint); font-size: 13px; }
.chart .title { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--edge); fill: none; }
.line { fill: none; stroke: var(--first); stroke-width: 2.2; stroke-linejoin: round; }
.line-1 { stroke: var(--second); stroke-dasharray: 7 4; }
.line-2 { stroke: var(--third); stroke-dasharray: 2 3; }
.line-3 { stroke: var(--fourth); stroke-dasharray: 9 3 2 3; }
.area { fill: var(--first); fill-opacity: .45; stroke: var(--first); }
.area-1 { fill: var(--second); stroke: var(--second); }

.query {
  display: grid; grid-template-columns: 11rem 1fr; gap: .4rem 1rem; align-items: center; padding: .8rem 0;
  border-bottom: 1px solid var(--edge); break-inside: avoid;
}
.query h3 { font-size: .95rem; font-weight: 600; margin: 0; display: flex; flex-direction: column; gap: .4rem; }
.query h3 small { font-weight: normal; }
.query ol {
  list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem; grid-template-columns: repeat(5, minmax(0, 1fr));
}
.query li {
  display: flex; flex-direction: column; align-items: center; gap: .2rem; text-align: center; padding: .4rem .35rem;
  background: var(--card); border: 1px solid var(--edge); border-radius: .5rem; line-height: 1.25; font-size: .85rem;
  overflow-wrap: anywhere;
}
.query li small { margin-top: auto; font-variant-numeric: tabular-nums; }
.query li.right { background: var(--right-card); border: 2px solid var(--right); }
.mark { color: var(--right); font-size: .8rem; white-space: nowrap; }
img { width: 96px; max-width: 100%; height: 96px; object-fit: contain; background: #fff; border-radius: .35rem; }
.query .none {
  width: 96px; max-width: 100%; height: 96px; display: grid; place-items: center; border: 1px dashed var(--edge);
  border-radius: .35rem; color: var(--faint); font-size: .75rem;
}

details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--first); }

@media (max-width: 40rem) {
  .query { grid-template-columns: 1fr; }
  .query ol { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .query h3 { flex-flow: row wrap; align-items: center; gap: .1rem .6rem; }
  th, td { padding: .3rem .3rem; font-size: .92rem; }
  .bars td:last-child { width: 45%; min-width: 7.5rem; }
  .stack table, .stack thead, .stack tbody { display: block; }
  .stack tr { display: grid; grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--edge); }
  .stack th:first-child { grid-column: 1 / -1; }
  .stack th, .stack td { border: 0; text-align: left; padding: .15rem .3rem .15rem 0; }
  .stack th, .stack td:nth-last-child(-n+2) { white-space: normal; }
  .stack thead th:nth-last-child(-n+2) { display: none; }
  .stack td:nth-last-child(2) { grid-column: 1 / 3; }
}
@media print {
  :root {
    --ink: #000; --faint: #444; --paper: #fff; --card: #fff; --edge: #bbb;
    --first: #2f5d8a; --second: #b4562d; --third: #4d7c3f; --fourth: #7d4f93;
    --right: #1f7a4d; --right-card: #fff; --bar: #eee;
  }
  html { font-size: 11px; }
  body { max-width: none; padding: 0; font-size: 11px; }
  nav { display: none; }
  .charts, .tables { grid-template-columns: 1fr 1fr; }
  .query { padding: .3rem 0; }
  .query ol { grid-template-columns: repeat(5, minmax(0, 1fr)); }
  img, .query .none { width: 56px; height: 56px; }
  .bar, .bar i, .area { print-color-adjust: exact; }
  h2, h3, .note, thead { break-after: avoid; }
  tr, .note { break-inside: avoid; }
}
"""
