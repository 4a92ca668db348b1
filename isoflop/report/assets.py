"""Style and behaviour of the report page."""

CSS = """
:root {
  --paper: #ffffff; --ink: #1c2127; --soft: #5b6570; --rule: #dfe3e8; --grid: #e9ecef; --tint: #f6f7f9;
  --accent: #0072b2; --good: #00795a; --bad: #b3261e;
  color-scheme: light;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e8eb; --soft: #9aa4af; --rule: #333a42; --grid: #2a3037; --tint: #1c2127;
    --accent: #6db7e8; --good: #4cc9a0; --bad: #ff8a80;
    color-scheme: dark;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
}
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 44px; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 4px; font-weight: 650;
  overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; letter-spacing: -0.01em; margin: 52px 0 10px; font-weight: 650; }
h3 { font-size: 1rem; margin: 24px 0 6px; font-weight: 650; }
p { margin: 0 0 12px; max-width: 46rem; }
sup { line-height: 0; font-size: 0.72em; }
.lead { font-size: 1.16rem; line-height: 1.5; max-width: 48rem; }
.soft, figcaption, .note { color: var(--soft); }
.kicker { color: var(--soft); font-size: 0.86rem; margin: 0 0 10px; }
.formula { font-family: Georgia, "DejaVu Serif", "Times New Roman", serif; font-size: 1.24rem; margin: 18px 0;
  overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 2px 20px; font-size: 0.88rem; margin: 20px 0 0; padding: 9px 0;
  border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); }
a { color: var(--accent); }
nav a { color: var(--soft); text-decoration: none; white-space: nowrap; }
nav a:hover, nav a:focus-visible { color: var(--accent); text-decoration: underline; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 20px 0; }
.card { background: var(--tint); border-radius: 8px; padding: 12px 16px; }
.card b { display: block; font-size: 1.46rem; font-weight: 650; line-height: 1.25; font-variant-numeric:
  tabular-nums; white-space: nowrap; }
.card span { display: block; font-size: 0.84rem; color: var(--soft); line-height: 1.4; }
figure { margin: 0; }
figcaption { font-size: 0.92rem; max-width: 52rem; margin: 0 0 8px; }
.plot { width: 100%; }
.wide { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top;
  font-weight: 400; }
thead th { color: var(--soft); font-weight: 600; border-bottom-color: var(--soft); vertical-align: bottom; }
th.num, td.num { text-align: right; padding: 5px 0 5px 16px; white-space: nowrap; }
th.word, td.word { text-align: left; padding-left: 20px; color: var(--soft); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
ul { padding-left: 1.2em; margin: 6px 0 12px; max-width: 50rem; } li { margin: 3px 0; }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: 5px 24px; margin: 10px 0;
  font-size: 0.94rem; max-width: 62rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: 0.9em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap:
  anywhere; }
pre { background: var(--tint); border-radius: 8px; padding: 12px 16px; overflow-x: auto; margin: 10px 0; }
.warnings h3 { margin-top: 0; }
.warnings { border-left: 3px solid var(--accent); padding: 2px 0 2px 16px; margin: 16px 0; }
#runs input { font: inherit; font-size: 0.9rem; padding: 6px 10px; width: min(22rem, 100%); color: inherit;
  background: var(--tint);
  border: 1px solid var(--rule); border-radius: 6px; }
#runs table { font-size: 0.82rem; width: 100%; }
#runs th.num, #runs td.num { padding-left: 9px; }
#runs code { white-space: nowrap; }
#runs thead button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0;
  cursor: pointer; }
#runs thead button:hover { color: var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; } th[aria-sort=descending] button::after { content:
  " \\2193"; }
tr.apart td, tr.apart th { background: var(--tint); }
footer { color: var(--soft); font-size: 0.84rem; padding-top: 28px; padding-bottom: 44px; }
@media (max-width: 620px) { main, header, footer { padding-left: 16px; padding-right: 16px; } dl {
  grid-template-columns: 1fr; gap: 0 0; } dd { margin-bottom: 8px; } }
@media print {
  @page { margin: 15mm 13mm; }
  body { font-size: 10pt; } main, header, footer { max-width: none; padding: 0; }
  header { padding-top: 0; } nav, #runs input, .modebar, .screen { display: none !important; }
  h2 { margin-top: 22px; } h2, h3, figcaption { break-after: avoid; } figure, .card, tr, dl > * { break-inside:
    avoid; }
  .wide { overflow: visible; } #runs table { font-size: 6pt; }
  #runs th.num, #runs td.num, #runs td { padding: 2px 0 2px 5px; } #runs code { font-size: 1em; }
  .plot { height: auto !important; } pre { white-space: pre-wrap; overflow: visible; }
  .card { border: 1px solid var(--rule); }
}
"""

# Figures wait as JSON beside their place. On paper they are drawn again in light colours, as wide as the paper.
SCRIPT = """
(function () {
  "use strict";
  var plots = [];
  function colours() {
    var style = getComputedStyle(document.documentElement);
    var read = function (name) { return style.getPropertyValue(name).trim(); };
    return { ink: read("--ink"), soft: read("--soft"), grid: read("--grid"), paper: read("--paper") };
  }
  function themed(layout, c) {
    var change = { "font.color": c.ink, "hoverlabel.bgcolor": c.paper, "hoverlabel.font.color": c.ink };
    Object.keys(layout).filter(function (key) { return /^[xy]axis/.test(key); }).forEach(function (axis) {
      change[axis + ".gridcolor"] = c.grid; change[axis + ".zerolinecolor"] = c.grid;
      change[axis + ".linecolor"] = c.soft; change[axis + ".tickcolor"] = c.soft;
    });
    return change;
  }
  function restyle(width) {
    plots.forEach(function (plot) {
      var change = themed(plot.layout, colours());
      var height = parseFloat(plot.style.height);
      change.width = width || null; change.height = width ? 0.8 * height : height; change.autosize = !width;
      Plotly.relayout(plot, change);
    });
  }
  document.querySelectorAll(".plot").forEach(function (place) {
    var figure = JSON.parse(place.nextElementSibling.textContent);
    Plotly.newPlot(place, figure.data, figure.layout, {
      responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtons: [["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]],
      toImageButtonOptions: { format: "svg", filename: place.id }
    });
    plots.push(place);
  });
  restyle();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { restyle(); });
  window.matchMedia("print").addEventListener("change", function (event) { restyle(event.matches ? 690 : null); });

  var table = document.querySelector("#runs table");
  if (!table) { return; }
  var body = table.tBodies[0], heads = Array.from(table.tHead.rows[0].cells), rows = Array.from(body.rows);
  function value(row, column) {
    var cell = row.cells[column], text = cell.dataset.v === undefined ? cell.textContent : cell.dataset.v;
    return text !== "" && isFinite(text) ? Number(text) : text;
  }
  heads.forEach(function (head, column) {
    head.querySelector("button").addEventListener("click", function () {
      var up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      rows.sort(function (a, b) {
        var x = value(a, column), y = value(b, column);
        if (x === "" || y === "") { return (x === "") - (y === ""); }
        var order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return up ? order : -order;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
  var field = document.querySelector("#runs input"), shown = document.getElementById("shown");
  field.addEventListener("input", function () {
    var words = field.value.toLowerCase().split(/\\s+/).filter(Boolean), left = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      row.hidden = !words.every(function (word) { return text.includes(word); });
      left += !row.hidden;
    });
    shown.textContent = left === rows.length ? "" : left + " of " + rows.length + " shown";
  });
})();
"""
