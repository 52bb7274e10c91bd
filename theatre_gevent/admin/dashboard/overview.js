// The first page: figures, hosts and charts, live.
import { h, put, say } from "./dom.js";
import { count, milliseconds, short } from "./format.js";
import { Chart } from "./charts.js";
import { CHARTS, onUpdate, store } from "./store.js";
import { hostCard } from "./hosts.js";

const TILES = [
  ["messages", "Messages/s", () => short(store.totals.messages)],
  ["requests", "Requests/s", () => short(store.totals.requests)],
  ["activations", "Activations/s", () => short(store.totals.activations)],
  ["actors", "Actors", () => count(store.totals.actors)],
  ["dead", "Dead letters", () => count(store.totals.letters)],
  ["p50", "Handling p50", () => milliseconds(store.handling.p50.at(-1))],
  ["p99", "Handling p99", () => milliseconds(store.handling.p99.at(-1))],
];

export function overviewPage(root) {
  const tiles = TILES.map(([id, title, read]) => {
    const value = h("dd", { id: `tile-${id}` }, "–");
    return { read, value, element: h("div", { class: "card tile" }, h("dt", {}, title), value) };
  });
  const cards = new Map();
  const strip = h("div", { class: "hosts", id: "host-cards" });
  const charts = Object.entries(CHARTS).map(([name, { title, unit }]) => new Chart({
    id: name,
    title: unit === "/s" ? `${title} per second` : title,
    format: short,
    times: () => store.times,
    lines: () => [...store.hosts.values()].map((host, index) => ({ name: host.id, values: host.series[name], index })),
    total: () => short(store.totals[name]),
  }));
  charts.push(new Chart({
    id: "handling",
    log: true,
    title: "Handling time",
    format: milliseconds,
    times: () => store.times,
    lines: () => [{ name: "p50", values: store.handling.p50, index: 0 }, { name: "p99", values: store.handling.p99, index: 1 }],
    total: () => milliseconds(store.handling.p99.at(-1)),
  }));

  put(root,
    h("h1", { class: "hidden" }, "Overview"),
    h("dl", { class: "tiles" }, tiles.map((tile) => tile.element)),
    strip,
    h("div", { class: "charts" }, charts.map((chart) => chart.element)));

  function update() {
    for (const tile of tiles) say(tile.value, tile.read());
    const ids = [...store.hosts.keys()];
    if (ids.length !== cards.size || ids.some((id) => !cards.has(id))) {
      cards.clear();
      ids.forEach((id, index) => cards.set(id, hostCard(id, index)));
      put(strip, [...cards.values()].map((card) => card.element));
    }
    for (const [id, host] of store.hosts) cards.get(id).update(host);
    if (store.times.length) for (const chart of charts) chart.draw();
  }

  const stop = onUpdate(update);
  const themed = () => charts.forEach((chart) => chart.again());
  document.addEventListener("theme", themed);
  update();
  return { stop() {
    stop();
    document.removeEventListener("theme", themed);
    for (const chart of charts) chart.remove();
  } };
}
