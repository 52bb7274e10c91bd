// What is known of the hosts, asked for once a second, with the last minutes of it for the charts.
import { get } from "./api.js";

export const EVERY = 1000;
const KEPT = 300; // points of a chart
const SMOOTHED = 5; // readings that quantiles are taken of: one message in 64 is timed, which are few in a second
const FORGET = 10 * 60 * 1000; // a host that is gone is shown for so long

export const CHARTS = {
  messages: { title: "Messages", unit: "/s", counter: "messages_received" },
  requests: { title: "Requests", unit: "/s", counter: "requests_total" },
  activations: { title: "Activations", unit: "/s", counter: "activations_total" },
  actors: { title: "Actors", unit: "", gauge: "actors_active" },
  dead: { title: "Dead letters", unit: "/s", counter: "messages_dead_lettered" },
};

export const store = {
  hosts: new Map(), // by id, in the order of the ids
  times: [],
  handling: { p50: [], p99: [] },
  self: null,
  error: null,
  paused: false,
  totals: {},
};

const recent = [];
const listeners = new Set();
export function onUpdate(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function newHost(id) {
  const series = Object.fromEntries(Object.keys(CHARTS).map((name) => [name, store.times.map(() => null)]));
  return { id, series, rates: {}, last: null, entry: null, seen: 0, gone: false };
}

// The part of `share` of what was counted between two readings of a histogram, in its own unit.
export function quantile(bounds, counts, share) {
  const total = counts.reduce((sum, value) => sum + value, 0);
  if (!total) return null;
  let wanted = share * total;
  for (let index = 0; index < counts.length; index += 1) {
    if (counts[index] >= wanted && counts[index] > 0) {
      if (index >= bounds.length) return bounds[bounds.length - 1];
      const lower = index ? bounds[index - 1] : 0;
      return lower + (bounds[index] - lower) * (wanted / counts[index]);
    }
    wanted -= counts[index];
  }
  return bounds[bounds.length - 1];
}

// A host of another version may not count everything: what it lacks is not shown.
function readRates(host, status) {
  const before = host.last;
  const again = !before || before.epoch !== status.epoch || status.uptime_ms < before.uptime_ms;
  const seconds = again ? 0 : (status.uptime_ms - before.uptime_ms) / 1000;
  for (const [name, chart] of Object.entries(CHARTS)) {
    if (chart.gauge) {
      host.rates[name] = status.metrics?.[chart.gauge] ?? null;
    } else {
      const grown = seconds > 0 ? (status.metrics?.[chart.counter] - before.metrics?.[chart.counter]) / seconds : NaN;
      host.rates[name] = Number.isNaN(grown) ? null : Math.max(0, grown);
    }
  }
  const counts = status.handling?.counts;
  const counted = before?.handling?.counts;
  host.handled = again || !counts || !counted ? null
    : counts.map((value, index) => Math.max(0, value - (counted[index] ?? 0)));
  host.last = status;
}

function takeIn(answer) {
  const now = Date.now();
  store.self = answer.host_id;
  const present = new Set();
  for (const entry of answer.hosts) {
    present.add(entry.host_id);
    let host = store.hosts.get(entry.host_id);
    if (!host) {
      host = newHost(entry.host_id);
      store.hosts.set(entry.host_id, host);
      store.hosts = new Map([...store.hosts].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
    }
    host.entry = entry;
    host.gone = false;
    host.seen = now;
    host.handled = null;
    if (entry.answered) readRates(host, entry.status);
    else for (const name of Object.keys(CHARTS)) host.rates[name] = null;
  }
  for (const [id, host] of store.hosts) {
    if (present.has(id)) continue;
    host.gone = true;
    host.handled = null;
    for (const name of Object.keys(CHARTS)) host.rates[name] = null;
    if (now - host.seen > FORGET) store.hosts.delete(id);
  }
  addPoint(now);
}

function addPoint(now) {
  store.times.push(now / 1000);
  const all = [...store.hosts.values()];
  for (const host of all) {
    for (const name of Object.keys(CHARTS)) host.series[name].push(host.rates[name] ?? null);
  }
  const bounds = all.find((host) => host.last?.handling)?.last.handling.bounds_ms ?? [];
  const fresh = new Array(bounds.length + 1).fill(0);
  for (const host of all) host.handled?.forEach((value, index) => { fresh[index] += value; });
  recent.push(fresh);
  if (recent.length > SMOOTHED) recent.shift();
  const counts = fresh.map((_, index) => recent.reduce((sum, one) => sum + (one[index] ?? 0), 0));
  store.handling.p50.push(quantile(bounds, counts, 0.5));
  store.handling.p99.push(quantile(bounds, counts, 0.99));
  if (store.times.length > KEPT) {
    store.times.shift();
    store.handling.p50.shift();
    store.handling.p99.shift();
    for (const host of all) for (const series of Object.values(host.series)) series.shift();
  }
  store.totals = {};
  for (const name of Object.keys(CHARTS)) {
    const known = all.map((host) => host.rates[name]).filter((value) => value !== null && value !== undefined);
    store.totals[name] = known.length ? known.reduce((sum, value) => sum + value, 0) : null;
  }
  store.totals.letters = all.reduce((sum, host) => sum + (host.entry?.answered ? host.last.metrics.messages_dead_lettered : 0), 0);
}

export function stateOf(host) {
  if (host.gone) return { name: "gone", kind: "bad", text: `host ${host.id} is no member of the cluster any more` };
  if (!host.entry.answered) return { name: "no answer", kind: "bad", text: host.entry.error };
  const state = host.last.state;
  return { name: state, kind: { active: "good", frozen: "cold", draining: "warn", rejoining: "warn", starting: "warn" }[state] ?? "bad", text: "" };
}

async function once() {
  try {
    takeIn(await get("cluster/all-status"));
    store.error = null;
  } catch (error) {
    store.error = error.message;
    for (const host of store.hosts.values()) {
      for (const name of Object.keys(CHARTS)) host.rates[name] = null;
      host.handled = null;
    }
    if (store.hosts.size) addPoint(Date.now());
  }
  for (const listener of listeners) listener();
}

export async function poll() {
  for (;;) {
    const began = performance.now();
    if (!store.paused && !document.hidden) await once();
    const left = EVERY - (performance.now() - began);
    await new Promise((resolve) => setTimeout(resolve, Math.max(100, left)));
  }
}
