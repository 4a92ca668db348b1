// Figures wait as JSON beside their elements. On a narrow screen their panels stand one below the other; on paper they are
// drawn again in light colours, as wide as the paper.
(function () {
  "use strict";
  var PAPER = 690, SHRUNK = 0.66, LOWEST = 300; // pixels of width on paper; share of the height, two to a page
  var PANEL = 300, BETWEEN = 70; // pixels: height of a stacked panel, and of its axis below it
  var plots = [], narrow = window.matchMedia("(max-width: 620px)"), hovers = window.matchMedia("(hover: hover)").matches;
  function colours() {
    var style = getComputedStyle(document.documentElement);
    var read = function (name) { return style.getPropertyValue(name).trim(); };
    return { ink: read("--ink"), soft: read("--soft"), grid: read("--grid"), paper: read("--paper") };
  }
  function axes(layout, letter) {
    return Object.keys(layout).filter(function (key) { return key.indexOf(letter + "axis") === 0; }).sort();
  }
  function themed(layout, c) {
    var change = { "font.color": c.ink, "hoverlabel.bgcolor": c.paper, "hoverlabel.font.color": c.ink };
    axes(layout, "x").concat(axes(layout, "y")).forEach(function (axis) {
      change[axis + ".gridcolor"] = c.grid; change[axis + ".zerolinecolor"] = c.grid;
      change[axis + ".linecolor"] = c.soft; change[axis + ".tickcolor"] = c.soft;
    });
    return change;
  }
  // Where each panel stands: side by side as in the figure's own layout, or one below the other.
  function arranged(layout, stacked, printed) {
    var change = { "margin.l": stacked ? 52 : layout.margin.l, "margin.r": stacked ? 8 : layout.margin.r,
      "legend.font.size": stacked || printed ? 11 : layout.legend.font.size, "font.size": printed ? 10 : layout.font.size };
    var across = axes(layout, "x"), down = axes(layout, "y"), count = across.length;
    if (count < 2) { return change; }
    var height = count * (PANEL + BETWEEN) - BETWEEN;
    across.forEach(function (axis, i) {
      var top = 1 - i * (PANEL + BETWEEN) / height;
      change[axis + ".domain"] = stacked ? [0, 1] : layout[axis].domain;
      change[down[i] + ".domain"] = stacked ? [Math.max(top - PANEL / height, 0), top] : layout[down[i]].domain;
      change[down[i] + ".showticklabels"] = stacked || layout[down[i]].showticklabels !== false;
    });
    return change;
  }
  function height(plot, stacked) {
    var count = axes(plot.layout, "x").length;
    if (!stacked) { return plot.layout.height; }
    var legend = plot.element.querySelector(".legend"), above = legend ? legend.getBoundingClientRect().height : 0;
    return (count > 1 ? count * (PANEL + BETWEEN) + 30 : plot.layout.height - 30) + above;
  }
  function restyle(width) {
    var stacked = narrow.matches && !width;
    plots.forEach(function (plot) {
      var change = Object.assign(themed(plot.layout, colours()), arranged(plot.layout, stacked, Boolean(width)));
      change.width = width || null; change.autosize = !width;
      change.height = width ? Math.max(SHRUNK * plot.layout.height, Math.min(plot.layout.height, LOWEST)) : height(plot, stacked);
      plot.element.style.height = change.height + "px";
      Plotly.relayout(plot.element, change);
    });
  }
  document.querySelectorAll(".plot").forEach(function (element) {
    var figure = JSON.parse(element.nextElementSibling.textContent), layout = figure.layout;
    if (!hovers) { layout.dragmode = false; } // a finger scrolls the page
    Plotly.newPlot(element, figure.data, JSON.parse(JSON.stringify(layout)), {
      responsive: true, displaylogo: false, displayModeBar: hovers ? "hover" : false,
      modeBarButtons: [["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]],
      toImageButtonOptions: { format: "svg", filename: element.id }
    });
    plots.push({ element: element, layout: layout });
  });
  restyle();
  narrow.addEventListener("change", function () { restyle(); });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { restyle(); });
  window.matchMedia("print").addEventListener("change", function (event) { restyle(event.matches ? PAPER : null); });

  // The budget slider: every position was computed beforehand, and is only shown here.
  var slider = document.getElementById("budget-input"), plot = document.getElementById("plot-budget");
  if (slider && plot) {
    var meta = plot.layout.meta;
    slider.addEventListener("input", function () {
      var step = meta.steps[Number(slider.value)];
      slider.setAttribute("aria-valuetext", step.budget + ", " + step.distance);
      document.querySelectorAll("#budget [data-step]").forEach(function (element) {
        element.textContent = step[element.dataset.step];
      });
      Plotly.restyle(plot, { x: meta.marked.map(function () { return [step.x]; }),
        y: step.y.map(function (y) { return [y]; }) }, meta.marked);
    });
  }

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
    var words = field.value.toLowerCase().split(/\s+/).filter(Boolean), left = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      row.hidden = !words.every(function (word) { return text.includes(word); });
      left += !row.hidden;
    });
    shown.textContent = left === rows.length ? "" : left + " of " + rows.length + " shown";
  });
})();
