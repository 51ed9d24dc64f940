"use strict";
/* The page: strips, drawing, findings and the table of runs, and how they lead to each other. */

const began = performance.now();
const data = JSON.parse(document.getElementById("data").textContent);
const paint = new Paint(data.kinds);
const root = document.documentElement;

/* ---- light and dark ---- */
const themeButton = document.getElementById("theme");
function showTheme() {
  themeButton.textContent = paint.dark ? "light" : "dark";
  themeButton.setAttribute("aria-pressed", String(paint.dark));
  themeButton.setAttribute("aria-label", "switch to the " + themeButton.textContent + " theme");
}

/* ---- strips ---- */
const strips = {};
if (data.strip) strips.pfn = new Strip(document.getElementById("strip-pfn"), data.strip, paint, n => light(n, null));
if (data.machine) strips.mfn = new Strip(document.getElementById("strip-mfn"), data.machine, paint, n => {
  const lane = data.machine.lanes[0], i = strips.mfn.runAt(lane, n);
  if (i >= 0 && lane.value[i] >= 0 && strips.pfn) strips.pfn.select(lane.value[i] + n - lane.start[i], true);
});
for (const id of ["strip-pfn", "strip-mfn"]) {
  if (!strips[id.slice(6)]) document.getElementById(id).hidden = true;
}
function redraw() { for (const strip of Object.values(strips)) strip.resize(); }

themeButton.addEventListener("click", () => {
  root.style.colorScheme = paint.dark ? "light" : "dark";
  showTheme();
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showTheme(); redraw(); });
let waiting = 0;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 80); });
showTheme();

/* ---- the drawing ---- */
const frame = d3.select("#picture"), boxes = d3.selectAll("#picture .p2m-box");
let zoom = null, svg = null;
if (!frame.empty()) {
  svg = frame.select("svg");
  const all = svg.select(".p2m-all"), width = +svg.attr("width"), height = +svg.attr("height");
  svg.attr("viewBox", null);
  zoom = d3.zoom().scaleExtent([.15, 4]).filter(e => e.type !== "wheel" || e.ctrlKey).on("zoom", e => all.attr("transform", e.transform));
  svg.call(zoom);
  const room = () => frame.node().getBoundingClientRect();
  const fit = () => {
    const r = room(), k = Math.min(1, r.width / width, r.height / height);
    svg.call(zoom.transform, d3.zoomIdentity.translate(Math.max(0, (r.width - width * k) / 2), 0).scale(k));
  };
  const whole = () => svg.call(zoom.transform, d3.zoomIdentity.scale(Math.min(1, Math.max(.6, room().width / width))));
  d3.select("#p-in").on("click", () => svg.call(zoom.scaleBy, 1.4));
  d3.select("#p-out").on("click", () => svg.call(zoom.scaleBy, 1 / 1.4));
  d3.select("#p-fit").on("click", fit);
  d3.select("#p-full").on("click", () => svg.call(zoom.transform, d3.zoomIdentity));
  const keys = {
    ArrowLeft: () => svg.call(zoom.translateBy, 60, 0), ArrowRight: () => svg.call(zoom.translateBy, -60, 0),
    ArrowUp: () => svg.call(zoom.translateBy, 0, 60), ArrowDown: () => svg.call(zoom.translateBy, 0, -60),
    "+": () => svg.call(zoom.scaleBy, 1.4), "=": () => svg.call(zoom.scaleBy, 1.4), "-": () => svg.call(zoom.scaleBy, 1 / 1.4), Home: fit,
  };
  frame.on("keydown", event => {
    if (event.ctrlKey || event.metaKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  whole();
  boxes.on("click", function () {
    lightBox(this);
    if (this.dataset.first && strips.pfn) {
      strips.pfn.place(+this.dataset.first, +this.dataset.last);
      strips.pfn.select(+this.dataset.first, true);
    } else if (this.dataset.mfn && strips.mfn) strips.mfn.select(Math.min(+this.dataset.mfn, data.machine.limit - 1), true);
  });
}
function lightBox(node) {
  boxes.classed("lit", false);
  if (node) d3.select(node).classed("lit", true).raise();
}
/* The smallest box that holds a frame number, or the one that is the machine frame. */
function boxOf(n, mfn) {
  let best = null, span = Infinity;
  boxes.each(function () {
    if (mfn !== null && +this.dataset.mfn === mfn) { best = this; span = -1; }
    const first = +this.dataset.first, last = +this.dataset.last;
    if (n !== null && this.dataset.first !== undefined && first <= n && n <= last && last - first < span) { best = this; span = last - first; }
  });
  return best;
}
function light(n, mfn) {
  const box = boxes.empty() ? null : boxOf(n, mfn);
  lightBox(box);
  if (!box) return false;
  const head = box.querySelector(".p2m-frame"), r = frame.node().getBoundingClientRect();
  const k = Math.max(.6, d3.zoomTransform(svg.node()).k);
  const x = +head.getAttribute("x") + +head.getAttribute("width") / 2, y = +head.getAttribute("y") + Math.min(120, +head.getAttribute("height") / 2);
  svg.call(zoom.transform, d3.zoomIdentity.translate(r.width / 2 - x * k, r.height / 2 - y * k).scale(k));
  return true;
}

/* ---- findings ---- */
const numberOf = where => (where.pfn !== undefined ? where.pfn : where.gfn !== undefined ? where.gfn : null);
if (strips.pfn) {
  strips.pfn.marks = data.findings.map(f => numberOf(f.where)).filter(n => n !== null);
  strips.pfn.draw();
}
d3.selectAll("button.place").on("click", function () {
  const finding = data.findings[+this.dataset.finding], where = finding.where;
  d3.selectAll(".findings li").classed("lit", false);
  d3.select(this.parentNode).classed("lit", true).select("details").attr("open", "");
  const pfn = numberOf(where);
  let mfn = where.mfn === undefined ? null : where.mfn;
  if (mfn === null && where.address !== undefined && where.space === "machine") mfn = Math.floor(where.address / 4096);
  const lit = light(pfn, mfn);
  if (pfn !== null && strips.pfn && pfn < data.strip.limit) { strips.pfn.place(pfn, pfn); strips.pfn.select(pfn, true); }
  if (mfn !== null && strips.mfn && mfn < data.machine.limit) { strips.mfn.place(mfn, mfn); strips.mfn.select(mfn, true); }
  const target = pfn !== null ? "#pfns" : lit ? "#structure" : mfn !== null ? "#machine" : null;
  if (target) document.querySelector(target).scrollIntoView({ block: "start" });
});

/* ---- the table of runs ---- */
const STEP = 200;
const body = d3.select("#run-table tbody"), hits = d3.select("#hits"), more = d3.select("#more"), query = document.getElementById("query");
let found = [], shown = 0;
function search(text) {
  const runs = data.runs;
  if (!runs) { hits.text("no runs"); return; }
  text = text.trim().toLowerCase();
  const number = /^(0x[0-9a-f]+|[0-9]+)$/.test(text) ? Number(text) : null, all = d3.range(runs.start.length);
  if (!text) found = all;
  else if (number !== null) found = all.filter(i => {
    const inside = first => first >= 0 && first <= number && number < first + runs.count[i];
    return inside(runs.start[i]) || inside(runs.frame[i]);
  });
  else found = all.filter(i => data.kinds[runs.kind[i]].name.includes(text));
  const left = runs.total - runs.start.length;
  hits.text(`${count(found.length)} of ${count(runs.total)} runs` + (left > 0 ? `, the last ${count(left)} are not in this page` : ""));
  body.selectAll("tr").remove();
  shown = 0;
  grow();
}
function grow() {
  const runs = data.runs, next = found.slice(shown, shown + STEP);
  shown += next.length;
  const rows = body.selectAll(null).data(next).enter().append("tr").attr("data-run", i => i);
  const cell = (text, right) => rows.append("td").classed("r", right).text(text);
  cell(i => hex(runs.start[i]), true);
  cell(i => hex(runs.start[i] + runs.count[i] - 1), true);
  cell(i => count(runs.count[i]), true);
  const kind = rows.append("td");
  kind.append("span").attr("class", "letter").attr("aria-hidden", "true").text(i => data.kinds[runs.kind[i]].letter);
  kind.append("span").text(i => data.kinds[runs.kind[i]].name + (runs.order && runs.order[i] ? `, order ${runs.order[i]}` : ""));
  cell(i => runs.frame[i] < 0 ? "-" : hex(runs.frame[i]), true);
  cell(i => runs.frame[i] < 0 ? "-" : hex(runs.frame[i] + runs.count[i] - 1), true);
  rows.append("td").append("button").attr("type", "button").attr("aria-label", i => `show run at ${hex(runs.start[i])}`).text("show")
    .on("click", (event, i) => {
      d3.selectAll("#run-table tr").classed("lit", false);
      d3.select(event.currentTarget.closest("tr")).classed("lit", true);
      strips.pfn.place(runs.start[i], runs.start[i] + runs.count[i] - 1);
      strips.pfn.select(runs.start[i]);
      document.getElementById("pfns").scrollIntoView({ block: "start" });
    });
  more.attr("hidden", shown < found.length ? null : "").text(`show ${count(Math.min(STEP, found.length - shown))} more of ${count(found.length - shown)}`);
}
more.on("click", grow);
query.addEventListener("input", () => search(query.value));
document.getElementById("search").addEventListener("submit", event => { event.preventDefault(); search(query.value); });
addEventListener("keydown", event => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); query.focus(); }
});
search("");
root.dataset.drawn = (performance.now() - began).toFixed(1);
root.dataset.ready = performance.now().toFixed(1);
