// Hosts: cards for the overview, and a page with all that is known of each.
import { h, mark, put, say } from "./dom.js";
import { ago, bytes, count, duration, milliseconds, short } from "./format.js";
import { get } from "./api.js";
import { onUpdate, stateOf, store } from "./store.js";

export function badge() {
  return h("span", { class: "badge" });
}

export function setBadge(element, kind, text) {
  mark(element, `badge ${kind}`);
  say(element, text);
}

// A bar without a style attribute in the markup: its width is set on the element.
export function bar(label) {
  const fill = h("div", { class: "fill" });
  const text = h("span", {});
  const element = h("div", { class: "bar", role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 }, fill, text);
  return { element, set(share, words, kind = "") {
    const percent = Math.max(0, Math.min(100, 100 * (share || 0)));
    fill.style.width = `${percent}%`;
    mark(fill, `fill ${kind}`);
    element.setAttribute("aria-valuenow", Math.round(percent));
    say(text, words);
  } };
}

function setLease(lease, status) {
  const left = status?.remaining_lease_ms;
  lease.element.hidden = left === null || left === undefined;
  if (lease.element.hidden) return;
  const whole = status.lease_duration_ms || 20000;
  const share = left / whole;
  lease.set(share, `lease ${duration(left)}`, share < 0.2 ? "bad" : share < 0.4 ? "warn" : "good");
}

export function hostCard(id, index) {
  const state = badge();
  const error = h("p", { class: "why bad", hidden: true });
  const lease = bar("What is left of the lease");
  const inbox = bar("Messages waiting, of those that may");
  const epoch = h("p", { class: "epoch" });
  const facts = { actors: h("dd", {}), messages: h("dd", {}), requests: h("dd", {}), lag: h("dd", {}) };
  const element = h("article", { class: "card host", "data-host": id },
    h("header", {}, h("i", { class: `dot line-${(index % 8) + 1}` }), h("h3", {}, h("a", { href: `#/hosts?host=${encodeURIComponent(id)}` }, id)), state),
    epoch, error, lease.element,
    h("dl", { class: "facts" },
      h("div", {}, h("dt", {}, "Actors"), facts.actors), h("div", {}, h("dt", {}, "Messages/s"), facts.messages),
      h("div", {}, h("dt", {}, "Requests/s"), facts.requests), h("div", {}, h("dt", {}, "Hub lag"), facts.lag)),
    inbox.element);
  return { element, update(host) {
    const { name, kind, text } = stateOf(host);
    setBadge(state, kind, name);
    mark(element, `card host is-${kind}`);
    error.hidden = !text;
    say(error, text);
    const status = kind === "bad" && text ? null : host.last;
    setLease(lease, status);
    say(epoch, host.entry?.epoch === null ? host.entry.address || "by itself" : `${host.entry?.address ?? ""} · epoch ${host.entry?.epoch}`);
    say(facts.actors, status ? short(status.active_actors) : "–");
    say(facts.messages, short(host.rates.messages));
    say(facts.requests, short(host.rates.requests));
    say(facts.lag, status ? milliseconds(status.hub_lag_ms) : "–");
    inbox.element.hidden = !status;
    if (status) {
      const share = status.inbox_depth / status.inbox_cap;
      inbox.set(share, `${short(status.inbox_depth)} waiting, of ${short(status.inbox_cap)}`, share > 0.9 ? "bad" : share > 0.6 ? "warn" : "");
    }
  } };
}

const COLUMNS = [
  ["Host", (host) => host.id],
  ["State", null],
  ["Epoch", (host) => host.entry?.epoch ?? "–"],
  ["Actors", (host, status) => (status ? count(status.active_actors) : "–")],
  ["Messages/s", (host) => short(host.rates.messages)],
  ["Waiting", (host, status) => (status ? `${short(status.inbox_depth)} / ${short(status.inbox_cap)}` : "–")],
  ["To send", (host, status) => (status ? count(status.transport_send_queue) : "–")],
  ["Hub lag", (host, status) => (status ? milliseconds(status.hub_lag_ms) : "–")],
  ["Memory", (host, status) => (status ? bytes(status.rss_bytes) : "–")],
  ["Up for", (host, status) => (status ? duration(status.uptime_ms) : "–")],
  ["Address", (host) => host.entry?.address || "–"],
  ["Admin", (host) => host.entry?.admin_addr || "–"],
];
const NUMBERS = new Set(["Actors", "Messages/s", "Waiting", "To send", "Hub lag", "Memory", "Up for"]);

export function hostsPage(root, query) {
  const body = h("tbody", {});
  const detail = h("div", { id: "host-detail" });
  const rows = new Map();
  put(root,
    h("h1", {}, "Hosts"),
    h("div", { class: "table-wrap card" }, h("table", { class: "rows", id: "hosts-table" },
      h("thead", {}, h("tr", {}, COLUMNS.map(([title]) => h("th", { scope: "col", class: NUMBERS.has(title) ? "number" : "" }, title)))), body)),
    detail);

  function row(id) {
    const state = badge();
    const cells = COLUMNS.map(([title, read], index) => {
      if (!read) return h("td", { "data-label": title }, state);
      return h("td", { "data-label": title, class: NUMBERS.has(title) ? "number" : "" }, index ? "" : h("a", { href: `#/hosts?host=${encodeURIComponent(id)}` }, id));
    });
    return { element: h("tr", { tabindex: 0, "data-href": `#/hosts?host=${encodeURIComponent(id)}`, "data-host": id }, cells), cells, state };
  }

  function update() {
    for (const [id, host] of store.hosts) {
      if (!rows.has(id)) {
        rows.set(id, row(id));
        put(body, [...store.hosts.keys()].filter((key) => rows.has(key)).map((key) => rows.get(key).element));
      }
      const { element, cells, state } = rows.get(id);
      const { name, kind, text } = stateOf(host);
      setBadge(state, kind, name);
      state.title = text;
      mark(element, `is-${kind}${query.get("host") === id ? " chosen" : ""}`);
      const status = kind === "bad" && text ? null : host.last;
      COLUMNS.forEach(([, read], index) => {
        if (read && index) say(cells[index], read(host, status));
      });
    }
  }

  const wanted = query.get("host");
  let over = false;
  async function details() {
    const host = store.hosts.get(wanted);
    if (!wanted || !host || over) return;
    const { text } = stateOf(host);
    if (text) {
      put(detail, h("section", { class: "card" }, h("h2", {}, wanted), h("p", { class: "why bad" }, text)));
      return;
    }
    try {
      const types = await get("cluster/types", { host: wanted });
      if (over) return;
      put(detail, hostDetail(host, types.details));
    } catch (error) {
      if (!over) put(detail, h("section", { class: "card" }, h("h2", {}, wanted), h("p", { class: "why bad" }, error.message)));
    }
  }

  let turn = 0;
  const stop = onUpdate(() => {
    update();
    turn += 1;
    if (turn % 2 === 0) details();
  });
  update();
  details();
  return { stop() { over = true; stop(); } };
}

function facts(pairs) {
  return h("dl", { class: "facts wide" }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function hostDetail(host, types) {
  const status = host.last;
  return [
    h("section", { class: "card" }, h("h2", {}, host.id), facts([
      ["State", status.state], ["Epoch", status.epoch ?? "–"], ["Started", ago(status.started_at)],
      ["Process", status.process], ["Version", status.version], ["Python", status.python],
      ["Workers", `${status.workers_busy} busy of ${status.workers}`],
      ["Placements remembered", count(status.placement_cache_size)], ["Schedules", count(status.pending_schedules)],
      ["Garbage collections", count(status.gc_collections)],
    ])),
    h("section", { class: "card table-wrap" }, h("h2", {}, "Types"), types.length ? h("table", { class: "rows" },
      h("thead", {}, h("tr", {}, ["Type", "Actors", "Messages", "Activations", "Failed", "Errors", "Mean time"].map((title, index) => h("th", { scope: "col", class: index ? "number" : "" }, title)))),
      h("tbody", {}, types.map((type) => {
        const timed = type.times.reduce((sum, value) => sum + value, 0);
        const mean = timed ? milliseconds((1000 * type.seconds) / timed) : "–";
        return h("tr", {}, [type.name, count(type.active), count(type.messages), count(type.activations), count(type.failed), count(type.errors), mean]
          .map((value, index) => h("td", { class: index ? "number" : "" }, value)));
      }))) : h("p", { class: "empty" }, "no type is registered")),
    h("section", { class: "card table-wrap" }, h("h2", {}, "Connections"), status.transport_peers_detail.length ? h("table", { class: "rows" },
      h("thead", {}, h("tr", {}, ["To", "Address", "State", "To send", "Last error"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, status.transport_peers_detail.map((peer) => {
        const state = badge();
        setBadge(state, peer.connected ? "good" : "bad", peer.connected ? "connected" : "down");
        return h("tr", {}, h("td", {}, peer.host_id), h("td", {}, peer.address), h("td", {}, state), h("td", {}, count(peer.send_queue)), h("td", {}, peer.error ?? ""));
      }))) : h("p", { class: "empty" }, "this host is by itself")),
  ];
}
