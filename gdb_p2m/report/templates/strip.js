"use strict";
/* A strip: lanes of stretches over numbers 0..limit-1, drawn from the stretches themselves at every scale. */

const hex = n => "0x" + Math.round(n).toString(16);
const count = d3.format(",");

function sizeOf(frames) {
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
  let size = frames * 4, unit = 0;
  while (size >= 1024 && unit < units.length - 1) { size /= 1024; unit++; }
  return (size % 1 ? size.toFixed(1) : String(size)) + " " + units[unit];
}

/* Tiles of 8 by 8 pixels: patterns tell kinds apart without colour. */
class Paint {
  constructor(kinds) { this.kinds = kinds; this.made = new Map(); }
  get dark() {
    const forced = document.documentElement.style.colorScheme;
    return forced ? forced === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  colour(kind) { return this.dark ? this.kinds[kind].dark : this.kinds[kind].light; }
  fill(context, kind) {
    const key = kind + (this.dark ? "d" : "l");
    if (!this.made.has(key)) this.made.set(key, context.createPattern(this.tile(kind), "repeat"));
    return this.made.get(key);
  }
  tile(kind) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const c = tile.getContext("2d"), colour = this.colour(kind), pattern = this.kinds[kind].pattern;
    c.fillStyle = c.strokeStyle = colour;
    c.globalAlpha = pattern === "solid" ? 1 : pattern === "empty" ? .14 : .22;
    c.fillRect(0, 0, 8, 8);
    c.globalAlpha = 1;
    c.lineWidth = 1.8;
    const lines = {
      diagonal: [[-2, 2, 2, -2], [0, 8, 8, 0], [6, 10, 10, 6]], cross: [[0, 0, 8, 8], [8, 0, 0, 8]],
      upright: [[4, 0, 4, 8]], level: [[0, 4, 8, 4]], grid: [[4, 0, 4, 8], [0, 4, 8, 4]],
    }[pattern] || [];
    c.beginPath();
    for (const [a, b, x, y] of lines) { c.moveTo(a, b); c.lineTo(x, y); }
    c.stroke();
    if (pattern === "dots") { c.beginPath(); c.arc(4, 4, 1.9, 0, 7); c.fill(); }
    return tile;
  }
}

class Strip {
  constructor(node, data, paint, onSelect) {
    this.node = node; this.data = data; this.paint = paint; this.onSelect = onSelect;
    this.root = d3.select(node);
    this.detail = this.root.select("canvas.detail");
    this.overview = this.root.select("canvas.overview");
    this.lanes = data.lanes;
    this.gutter = 0;
    this.window = [0, data.limit];
    this.selected = null;
    this.marks = [];
    this.root.select(".joined").text([...new Set(this.lanes.map(l => l.note).filter(n => n))].join("; "));
    this.listen();
    this.resize();
    this.show(...data.focus);
  }

  /* ---- where things are ---- */
  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.width = Math.max(240, this.node.clientWidth);
    this.gutter = this.width < 560 ? 84 : 132;
    this.tall = 40; this.thin = 17; this.axis = 22;
    this.height = this.tall + (this.lanes.length - 1) * this.thin + this.axis + 6;
    if (!this.data.leads.startsWith("MFN")) this.height = this.lanes.length * 26 + this.axis + 6;
    for (const [canvas, height] of [[this.detail, this.height], [this.overview, 30]]) {
      canvas.attr("width", this.width * ratio).attr("height", height * ratio).style("height", height + "px");
      canvas.node().getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    this.scale = d3.scaleLinear().domain(this.window).range([this.gutter, this.width - 1]);
    this.compressed = (this.data.compressed ? d3.scaleSymlog().constant(4096) : d3.scaleLinear()).domain([0, this.data.limit]).range([this.gutter, this.width - 1]);
    this.paint.made.clear();
    this.draw();
  }
  laneBox(i) {
    if (!this.data.leads.startsWith("MFN")) return [i * 26 + 2, 20];
    return i ? [this.tall + 6 + (i - 1) * this.thin, this.thin - 4] : [0, this.tall];
  }

  /* ---- what is shown ---- */
  show(a, b) {
    const limit = this.data.limit, least = Math.min(limit, 8);
    let span = Math.min(limit, Math.max(least, Math.round(b - a)));
    a = Math.round(Math.min(Math.max(0, a), limit - span));
    this.window = [a, a + span];
    this.scale.domain(this.window);
    this.draw();
  }
  zoom(factor, at) {
    const [a, b] = this.window, middle = at === undefined ? (this.selected !== null && this.selected >= a && this.selected < b ? this.selected : (a + b) / 2) : at;
    this.show(middle - (middle - a) / factor, middle + (b - middle) / factor);
  }
  pan(part) { const [a, b] = this.window, by = (b - a) * part; this.show(a + by, b + by); }
  place(first, last) {
    const room = Math.max(16, (last - first + 1) * .35);
    this.show(first - room, last + 1 + room);
  }
  select(n, quiet) {
    this.selected = n;
    if (n !== null && (n < this.window[0] || n >= this.window[1])) this.place(n, n);
    this.draw();
    this.root.select(".readout").text(n === null ? "" : this.describe(n));
    if (!quiet && this.onSelect && n !== null) this.onSelect(n);
  }
  runAt(lane, n) {
    const i = d3.bisectRight(lane.start, n) - 1;
    return i >= 0 && n < lane.start[i] + lane.count[i] ? i : -1;
  }
  step(by) {
    const lane = this.lanes[0], from = this.selected === null ? this.window[0] : this.selected;
    let i = d3.bisectRight(lane.start, from) - 1 + by;
    i = Math.max(0, Math.min(lane.start.length - 1, i));
    const first = lane.start[i], last = first + lane.count[i] - 1;
    if (last < this.window[0] || first >= this.window[1] || lane.count[i] / (this.window[1] - this.window[0]) < .004) this.place(first, last);
    this.select(first);
  }
  describe(n) {
    const lanes = this.data.leads.startsWith("MFN") ? this.lanes.slice(0, 1) : this.lanes, parts = [];
    for (const lane of lanes) {
      const i = this.runAt(lane, n);
      if (i < 0) continue;
      const kind = this.paint.kinds[lane.kind[i]], first = lane.start[i], last = first + lane.count[i] - 1;
      const value = lane.value[i] < 0 ? "" : ` → ${this.data.leads} ${hex(lane.value[i] + n - first)}`;
      const name = lanes.length > 1 ? lane.name + ": " : "";
      parts.push(`${name}${kind.name}${value}, ${lane.note ? "stretch" : "run"} ${hex(first)}..${hex(last)} (${count(lane.count[i])}, ${sizeOf(lane.count[i])})`);
    }
    return `${this.data.word} ${hex(n)}: ` + (parts.join("\n    ") || "nothing is mapped here");
  }

  /* ---- drawing ---- */
  draw() {
    if (!this.scale) return;
    const c = this.detail.node().getContext("2d"), style = getComputedStyle(this.node);
    const ink = style.color, soft = this.paint.dark ? "#a3afbd" : "#4d5866";
    c.clearRect(0, 0, this.width, this.height);
    c.textBaseline = "middle";
    this.lanes.forEach((lane, i) => {
      const [y, h] = this.laneBox(i);
      c.fillStyle = ink;
      c.font = (i ? "12px" : "600 13px") + " system-ui, 'DejaVu Sans', sans-serif";
      c.fillText(lane.name, 0, y + h / 2 + 1, this.gutter - 8);
      c.strokeStyle = soft; c.globalAlpha = .35; c.lineWidth = 1;
      c.strokeRect(this.gutter + .5, y + .5, this.width - this.gutter - 1, h);
      c.globalAlpha = 1;
      this.drawLane(c, lane, y, h, this.scale, this.window);
    });
    this.drawAxis(c, ink, soft);
    for (const n of this.marks) this.drawMark(c, n, "◆", soft, 12);
    if (this.selected !== null) this.drawMark(c, this.selected, "▼", ink, this.height - this.axis);
    this.drawOverview(ink);
    const [a, b] = this.window;
    this.root.select(".window").text(`shown: ${this.data.word} ${hex(a)}..${hex(b - 1)}, ${count(b - a)} frames, ${sizeOf(b - a)} of ${sizeOf(this.data.limit)}`);
  }
  drawLane(c, lane, y, h, scale, [a, b]) {
    let i = Math.max(0, d3.bisectRight(lane.start, a) - 1);
    const letters = [];
    /* Of many stretches within one pixel each kind is drawn once; what is rarer is drawn later, on top. */
    const seen = new Map(), rank = k => (k === 4 || k === 5 ? 3 : k === 2 || k === 3 || k === 10 || k === 14 ? 0 : 1);
    const late = [];
    for (; i < lane.start.length && lane.start[i] < b; i++) {
      const x = Math.max(this.gutter, scale(lane.start[i])), to = Math.min(this.width - 1, scale(lane.start[i] + lane.count[i]));
      if (to < this.gutter) continue;
      const kind = lane.kind[i], w = to - x;
      if (w < 1) {
        const pixel = Math.floor(x);
        if (seen.get(kind) === pixel) continue;
        seen.set(kind, pixel);
        late.push([rank(kind), kind, Math.min(pixel, this.width - 3), 2]);
        continue;
      }
      c.fillStyle = this.paint.fill(c, kind);
      c.fillRect(x, y, w, h);
      if (w > 5) { c.fillStyle = this.paint.colour(kind); c.fillRect(x, y, 1, h); }
      if (w > 26 && h > 14) letters.push([x, w, kind]);
    }
    late.sort((p, q) => p[0] - q[0]);
    for (const [, kind, x, w] of late) { c.fillStyle = this.paint.colour(kind); c.fillRect(x, y, w, h); }
    c.font = "600 11px system-ui, 'DejaVu Sans', sans-serif";
    for (const [x, w, kind] of letters) {
      const name = this.paint.kinds[kind].name, wide = c.measureText(name).width + 10;
      const text = w > wide + 4 ? name : this.paint.kinds[kind].letter, room = w > wide + 4 ? wide : 16;
      c.fillStyle = this.paint.dark ? "#131922" : "#ffffff"; c.globalAlpha = .88;
      c.fillRect(x + 4, y + h / 2 - 8, room, 16);
      c.globalAlpha = 1; c.fillStyle = this.paint.dark ? "#dde5ee" : "#1b2430"; c.textBaseline = "middle";
      c.fillText(text, x + 9, y + h / 2 + 1);
    }
  }
  ticks() {
    const [a, b] = this.window, most = Math.max(2, (this.width - this.gutter) / 130);
    let step = 1;
    while ((b - a) / step > most) step *= 2;
    const out = [];
    for (let n = Math.ceil(a / step) * step; n < b; n += step) out.push(n);
    return out;
  }
  drawAxis(c, ink, soft) {
    const y = this.height - this.axis;
    c.font = "12px ui-monospace, 'DejaVu Sans Mono', monospace";
    c.fillStyle = ink; c.strokeStyle = soft; c.lineWidth = 1; c.textAlign = "left";
    for (const n of this.ticks()) {
      const x = Math.round(this.scale(n)) + .5, text = hex(n), wide = c.measureText(text).width;
      c.beginPath(); c.moveTo(x, y - 2); c.lineTo(x, y + 5); c.stroke();
      c.fillText(text, Math.min(x + 3, this.width - wide), y + 12);
    }
  }
  drawMark(c, n, sign, colour, bottom) {
    const [a, b] = this.window;
    if (n < a || n >= b) return;
    const x = (this.scale(n) + this.scale(n + 1)) / 2;
    c.strokeStyle = c.fillStyle = colour; c.lineWidth = 1.5;
    c.beginPath(); c.moveTo(x, 0); c.lineTo(x, bottom); c.stroke();
    c.font = "13px sans-serif"; c.textAlign = "center"; c.fillText(sign, x, 6); c.textAlign = "left";
  }
  drawOverview(ink) {
    const c = this.overview.node().getContext("2d");
    c.clearRect(0, 0, this.width, 30);
    c.fillStyle = ink; c.font = "12px system-ui, 'DejaVu Sans', sans-serif"; c.textBaseline = "middle";
    c.fillText("whole space", 0, 16, this.gutter - 8);
    this.drawLane(c, this.lanes[0], 8, 13, this.compressed, [0, this.data.limit]);
    const x = this.compressed(this.window[0]), to = Math.max(x + 3, this.compressed(this.window[1]));
    c.strokeStyle = ink; c.lineWidth = 2; c.strokeRect(x, 5, Math.min(to, this.width - 1) - x, 19);
  }

  /* ---- input ---- */
  numberAt(event) {
    const x = Math.max(this.gutter, Math.min(this.width - 1.01, d3.pointer(event, this.detail.node())[0]));
    return Math.max(0, Math.min(this.data.limit - 1, Math.floor(this.scale.invert(x))));
  }
  act(what) {
    ({
      in: () => this.zoom(2), out: () => this.zoom(.5), left: () => this.pan(-.25), right: () => this.pan(.25),
      previous: () => this.step(-1), next: () => this.step(1), used: () => this.show(...this.data.focus), whole: () => this.show(0, this.data.limit),
    })[what]();
  }
  listen() {
    const strip = this;
    this.root.selectAll("button[data-do]").on("click", function () { strip.act(this.dataset.do); });
    this.root.select("form.go").on("submit", event => {
      event.preventDefault();
      const n = Number(event.target.elements.n.value.trim() || NaN), ok = Number.isInteger(n) && n >= 0 && n < this.data.limit;
      if (ok) this.select(n); else this.root.select(".readout").text(`not a ${this.data.word} below ${hex(this.data.limit)}`);
    });
    const keys = { ArrowLeft: "left", ArrowRight: "right", "+": "in", "=": "in", "-": "out", _: "out", Home: "used", End: "whole", "[": "previous", "]": "next" };
    this.detail.on("keydown", event => {
      if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
      event.preventDefault();
      this.act(keys[event.key]);
    });
    this.detail.on("wheel", event => {
      if (document.activeElement !== this.detail.node() && !event.ctrlKey) return;
      event.preventDefault();
      const n = this.numberAt(event);
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.pan(event.deltaX / this.width);
      else this.zoom(Math.pow(2, -event.deltaY / 240), n);
    }, { passive: false });
    this.detail.on("mousemove", event => {
      if (event.buttons === 0) this.root.select(".readout").text(this.describe(this.numberAt(event)));
    }).on("mouseleave", () => this.root.select(".readout").text(this.selected === null ? "" : this.describe(this.selected)));
    this.detail.on("dblclick", event => this.zoom(4, this.numberAt(event)));
    let from, moved;
    this.detail.call(d3.drag()
      .on("start", () => { from = this.window.slice(); moved = 0; this.detail.node().focus({ preventScroll: true }); })
      .on("drag", event => {
        moved += event.dx;
        const by = -moved * (from[1] - from[0]) / (this.width - this.gutter);
        if (Math.abs(moved) > 2) this.show(from[0] + by, from[1] + by);
      })
      .on("end", event => { if (Math.abs(moved) <= 2) this.select(this.numberAt(event.sourceEvent)); }));
    const jump = event => {
      const n = this.compressed.invert(Math.max(this.gutter, d3.pointer(event.sourceEvent || event, this.overview.node())[0]));
      const half = (this.window[1] - this.window[0]) / 2;
      this.show(n - half, n + half);
    };
    this.overview.call(d3.drag().on("start drag", jump));
  }
}
