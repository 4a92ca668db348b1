// Figures wait as JSON beside their elements. On paper they are drawn again in light colours, as wide as the paper.
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
  document.querySelectorAll(".plot").forEach(function (element) {
    var figure = JSON.parse(element.nextElementSibling.textContent);
    Plotly.newPlot(element, figure.data, figure.layout, {
      responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtons: [["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]],
      toImageButtonOptions: { format: "svg", filename: element.id }
    });
    plots.push(element);
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
    var words = field.value.toLowerCase().split(/\s+/).filter(Boolean), left = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      row.hidden = !words.every(function (word) { return text.includes(word); });
      left += !row.hidden;
    });
    shown.textContent = left === rows.length ? "" : left + " of " + rows.length + " shown";
  });
})();
