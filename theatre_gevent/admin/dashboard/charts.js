// One chart: a line for each host, or the lines that it is given.
import { h, put, say } from "./dom.js";

const COLOURS = 8;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function lineColour(index) {
  return colour(`--line-${(index % COLOURS) + 1}`);
}

// The powers of ten in a range, every second one where there are many.
function powers(_, __, low, high) {
  const first = Math.ceil(Math.log10(low) - 1e-6);
  const last = Math.floor(Math.log10(high) + 1e-6);
  const by = last - first > 4 ? 2 : 1;
  return Array.from({ length: Math.floor((last - first) / by) + 1 }, (___, index) => 10 ** (first + by * index));
}

export class Chart {
  // `format` shows a value, `lines` gives [{ name, values, index }] whenever it is drawn.
  constructor({ title, format, lines, times, total, id, log = false }) {
    this.log = log;
    this.format = format;
    this.lines = lines;
    this.times = times;
    this.total = total;
    this.plot = null;
    this.names = "";
    this.value = h("output", { class: "figure" }, "–");
    this.legend = h("ul", { class: "legend" });
    this.area = h("div", { class: "plot", role: "img", "aria-label": `${title}, the last five minutes` });
    this.element = h("section", { class: "card chart", id: `chart-${id}` },
      h("header", {}, h("h2", {}, title), this.value), this.area, this.legend);
    this.watcher = new ResizeObserver(() => this.resize());
    this.watcher.observe(this.area);
  }

  resize() {
    const width = Math.floor(this.area.clientWidth);
    if (this.plot && width > 0) this.plot.setSize({ width, height: this.height() });
  }

  height() {
    return window.innerWidth < 600 ? 130 : 170;
  }

  make(lines) {
    this.plot?.destroy();
    const axis = colour("--faint");
    const grid = { stroke: colour("--grid"), width: 1 };
    const look = { stroke: axis, grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    this.items = lines.map((line) => {
      const value = h("b", {});
      return { value, element: h("li", {}, h("i", { class: `dot line-${(line.index % COLOURS) + 1}` }), line.name, " ", value) };
    });
    put(this.legend, this.items.map((item) => item.element));
    this.plot = new uPlot({
      width: Math.max(50, Math.floor(this.area.clientWidth)),
      height: this.height(),
      padding: [8, 26, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "theatre" }, points: { size: 6 }, drag: { x: false, y: false } },
      scales: {
        x: { time: true, range: (_, low, high) => [Math.min(low, high - 60), Math.max(high, low + 1)] },
        y: this.log
          ? { distr: 3, range: (_, low, high) => [10 ** Math.floor(Math.log10(low > 0 ? low : 0.001)), 10 ** Math.ceil(Math.log10(high > 0 ? high * 1.01 : 1))] }
          : { range: (_, low, high) => [0, high > 0 ? high * 1.12 : 1] },
      },
      axes: [
        { ...look, space: 70, size: 24, values: (_, splits) => splits.map((at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false, minute: "2-digit", second: "2-digit", hour: "2-digit" })) },
        { ...look, size: 58, ...(this.log ? { splits: powers } : {}), values: (_, splits) => splits.map((value) => (value === null ? "" : this.format(value))) },
      ],
      series: [{}, ...lines.map((line) => ({
        label: line.name,
        stroke: lineColour(line.index),
        width: 1.8,
        fill: lines.length === 1 ? `${lineColour(line.index)}22` : undefined,
        points: { show: false },
        spanGaps: false,
      }))],
      hooks: { setCursor: [(plot) => this.point(plot.cursor.idx)] },
    }, [[], ...lines.map(() => [])], this.area);
  }

  draw() {
    const lines = this.lines();
    const names = JSON.stringify([lines.map((line) => [line.name, line.index]), document.documentElement.dataset.theme]);
    if (!this.plot || names !== this.names) {
      this.names = names;
      this.make(lines);
    }
    this.shown = lines;
    this.plot.setData([this.times(), ...lines.map((line) => line.values)]);
    this.point(this.plot.cursor.idx);
  }

  // Beside the names: the values under the pointer, else the last ones.
  point(index) {
    if (!this.shown) return;
    const last = this.times().length - 1;
    const at = index === null || index === undefined ? last : index;
    this.shown.forEach((line, number) => {
      const item = this.items[number];
      if (item) say(item.value, this.format(line.values[at] ?? null));
    });
    say(this.value, this.total());
  }

  again() {
    this.names = "";
    if (this.plot) this.draw();
  }

  remove() {
    this.watcher.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }
}
