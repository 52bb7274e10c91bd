// Actors: searched by type and beginning of the id, a page at a time, and one of them in detail.
import { h, mark, put, renew, say } from "./dom.js";
import { ago, clock, count, duration, short } from "./format.js";
import { get } from "./api.js";
import { onUpdate, store } from "./store.js";
import { badge, bar, setBadge } from "./hosts.js";

const LIMIT = 100;

export function actorHref(type, id) {
  return `#/actor?${new URLSearchParams({ type, id })}`;
}

export function silentNote(silent) {
  return silent?.length ? h("p", { class: "why bad" }, `Not complete: ${silent.map((one) => one.error).join("; ")}`) : null;
}

export function actorsPage(root, query) {
  const type = h("select", { id: "actor-type", "aria-label": "Type" }, h("option", { value: "" }, "all types"));
  const prefix = h("input", { id: "actor-prefix", type: "search", placeholder: "id begins with …", "aria-label": "Beginning of the id", autocomplete: "off", spellcheck: "false", value: query.get("prefix") ?? "" });
  const where = h("select", { id: "actor-host", "aria-label": "Host" }, h("option", { value: "" }, "all hosts"));
  const found = h("span", { class: "found", role: "status" });
  const note = h("div", {});
  const body = h("tbody", {});
  const before = h("button", { type: "button", id: "page-before", title: "Page before (b)" }, "‹ Before");
  const next = h("button", { type: "button", id: "page-next", title: "Next page (n)" }, "Next ›");
  const cursors = [];
  let after = null;
  let following = null;
  let asked = null;
  let typing = null;

  put(root,
    h("h1", {}, "Actors"),
    h("form", { class: "filter card", onsubmit: (event) => { event.preventDefault(); search(); } }, type, prefix, where, h("button", {}, "Search"), found),
    note,
    h("div", { class: "table-wrap card" }, h("table", { class: "rows", id: "actors-table" },
      h("thead", {}, h("tr", {}, ["Type", "Id", "Host", "State", "Messages", "Errors", "Inbox", "Last message"].map((title, index) => h("th", { scope: "col", class: index >= 4 && index < 7 ? "number" : "" }, title)))), body)),
    h("div", { class: "pager" }, before, next));

  function options(select, names, chosen, first) {
    const wanted = [["", first], ...names.map((name) => [name, name])];
    if (select.options.length === wanted.length && wanted.every(([value], index) => select.options[index].value === value)) return;
    put(select, wanted.map(([value, text]) => h("option", { value }, text)));
    if ([...select.options].some((option) => option.value === chosen)) select.value = chosen;
  }

  let givenType = query.get("type") ?? "";
  let givenHost = query.get("host") ?? "";
  function fill() {
    const hosts = [...store.hosts.values()];
    const types = new Set(hosts.flatMap((host) => host.last?.registered_types ?? []));
    if (givenType) types.add(givenType);
    options(type, [...types].sort(), type.value || givenType, "all types");
    options(where, [...store.hosts.keys()], where.value || givenHost, "all hosts");
  }

  function row(actor) {
    const state = badge();
    setBadge(state, actor.status === "active" ? "good" : "warn", actor.state);
    const href = actorHref(actor.type, actor.id);
    const full = actor.inbox_size / actor.inbox_cap;
    return h("tr", { tabindex: 0, "data-href": href },
      h("td", { "data-label": "Type" }, actor.type),
      h("td", { "data-label": "Id", class: "id" }, h("a", { href, tabindex: -1 }, actor.id)),
      h("td", { "data-label": "Host" }, actor.host_id),
      h("td", { "data-label": "State" }, state),
      h("td", { "data-label": "Messages", class: "number" }, count(actor.messages_total)),
      h("td", { "data-label": "Errors", class: actor.errors_total ? "number bad" : "number" }, count(actor.errors_total)),
      h("td", { "data-label": "Inbox", class: full > 0.8 ? "number bad" : "number" }, `${count(actor.inbox_size)} / ${count(actor.inbox_cap)}`),
      h("td", { "data-label": "Last message" }, ago(actor.last_message)));
  }

  async function show() {
    asked?.abort();
    const mine = new AbortController();
    asked = mine;
    mark(body, "waits");
    try {
      const given = { type: type.value || givenType, prefix: prefix.value, after, limit: LIMIT };
      const host = where.value || givenHost;
      const page = await get(host ? "cluster/actors" : "cluster/all-actors", host ? { ...given, host } : given, mine.signal);
      put(note, silentNote(page.silent));
      put(body, page.actors.map(row));
      if (!page.actors.length) put(body, h("tr", {}, h("td", { colspan: 8, class: "empty" }, "No active actor matches. Actors that are not active appear when they get a message.")));
      following = page.next;
      say(found, `${count(page.total)} ${page.total === 1 ? "actor" : "actors"}`);
      before.disabled = !cursors.length;
      next.disabled = !following;
    } catch (error) {
      if (error.name === "AbortError") return;
      put(note, h("p", { class: "why bad" }, error.message));
    } finally {
      if (asked === mine) mark(body, "");
    }
  }

  function search() {
    givenType = givenHost = "";
    cursors.length = 0;
    after = null;
    const kept = new URLSearchParams();
    for (const [name, field] of [["type", type], ["prefix", prefix], ["host", where]]) if (field.value) kept.set(name, field.value);
    history.replaceState(null, "", `#/actors${kept.size ? `?${kept}` : ""}`);
    show();
  }

  prefix.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, 250); });
  type.addEventListener("change", search);
  where.addEventListener("change", search);
  next.addEventListener("click", () => { if (following) { cursors.push(after); after = following; show(); } });
  before.addEventListener("click", () => { if (cursors.length) { after = cursors.pop(); show(); } });

  const stop = onUpdate(fill);
  fill();
  show();
  return { stop() { stop(); clearTimeout(typing); asked?.abort(); }, next: () => next.click(), before: () => before.click() };
}

export function actorPage(root, query) {
  const type = query.get("type") ?? "";
  const id = query.get("id") ?? "";
  const state = badge();
  const inbox = bar("Messages in the inbox");
  const values = {};
  const fact = (name, title) => {
    values[name] = h("dd", { id: `actor-${name}` }, "–");
    return h("div", {}, h("dt", {}, title), values[name]);
  };
  const note = h("div", {});
  const log = h("ol", { class: "log" });
  put(root,
    h("p", { class: "back" }, h("a", { href: "#/actors" }, "‹ Actors")),
    h("h1", { class: "ref" }, h("span", { class: "type" }, type), h("span", { id: "actor-id" }, id), state),
    note,
    h("div", { class: "columns" },
      h("section", { class: "card" }, h("h2", {}, "Activation"), h("dl", { class: "facts wide" },
        fact("host", "Host"), fact("receiver", "Receiver"), fact("created", "Created"), fact("uptime", "Alive for"), fact("last", "Last message"), fact("running", "At work"))),
      h("section", { class: "card" }, h("h2", {}, "Messages"),
        h("div", { class: "big" }, h("div", {}, h("b", { id: "actor-messages" }, "–"), "handled"), h("div", {}, h("b", { id: "actor-rate" }, "–"), "per second"), h("div", {}, h("b", { id: "actor-errors" }, "–"), "errors")),
        inbox.element, h("dl", { class: "facts wide" }, fact("line", "Senders waiting"), fact("owed", "Replies owed"))),
      h("section", { class: "card" }, h("h2", {}, "Owner"), h("dl", { class: "facts wide" }, fact("owner", "Host"), fact("address", "Address"), fact("epoch", "Epoch")))),
    h("section", { class: "card" }, h("h2", {}, "Errors and dead letters of this actor"), log));
  const messages = root.querySelector("#actor-messages");
  const rate = root.querySelector("#actor-rate");
  const errors = root.querySelector("#actor-errors");
  let over = false;
  let last = null;

  async function show() {
    try {
      const detail = await get("cluster/all-actor-detail", { type, id });
      if (over) return;
      put(note, silentNote(detail.silent));
      setBadge(state, detail.found ? (detail.status === "active" ? "good" : "warn") : "cold", detail.found ? detail.state : "not active");
      say(values.host, detail.found ? detail.host_id : "–");
      say(values.receiver, detail.receiver_type ?? "–");
      say(values.created, detail.created_at ? clock(detail.created_at) : "–");
      say(values.uptime, detail.found ? duration(detail.uptime_ms) : "–");
      say(values.last, ago(detail.last_message));
      say(values.running, detail.found ? (detail.running ? "yes" : "no") : "–");
      say(values.line, count(detail.senders_waiting));
      say(values.owed, count(detail.replies_owed));
      say(values.owner, detail.owner_host ?? "–");
      say(values.address, detail.owner_addr || "–");
      say(values.epoch, detail.epoch ?? "–");
      say(messages, count(detail.messages_total));
      say(errors, count(detail.errors_total));
      mark(errors, detail.errors_total ? "bad" : "");
      inbox.element.hidden = !detail.found;
      if (detail.found) {
        const share = detail.inbox_size / detail.inbox_cap;
        inbox.set(share, `inbox: ${count(detail.inbox_size)} of ${count(detail.inbox_cap)}`, share > 0.8 ? "bad" : share > 0.5 ? "warn" : "");
      }
      const now = performance.now();
      const same = last && detail.found && last.created === detail.created_at && now > last.at;
      say(rate, same ? short(((detail.messages_total - last.messages) * 1000) / (now - last.at)) : "–");
      last = detail.found ? { created: detail.created_at, messages: detail.messages_total, at: now } : null;
      const all = await get("cluster/all-errors", { limit: 1000 });
      if (over) return;
      const ref = `${type}/${id}`;
      const mine = all.errors.filter((entry) => entry.actor === ref);
      renew(log, mine.length ? mine.map(logEntry) : h("li", { class: "empty" }, "none lately"));
    } catch (error) {
      if (!over) put(note, h("p", { class: "why bad" }, error.message));
    }
  }

  let turn = 0;
  const stop = onUpdate(() => { turn += 1; if (turn % 2 === 0) show(); });
  show();
  return { stop() { over = true; stop(); }, up: "#/actors" };
}

// Types and ids may hold slashes: the longest type that some host has registered, else up to the first slash.
function actorLink(actor) {
  const types = [...store.hosts.values()].flatMap((host) => host.last?.registered_types ?? []);
  const known = types.filter((type) => actor.startsWith(`${type}/`)).map((type) => type.length);
  const slash = known.length ? Math.max(...known) : actor.indexOf("/");
  return slash > 0 ? [" ", h("a", { href: actorHref(actor.slice(0, slash), actor.slice(slash + 1)) }, actor)] : null;
}

export function logEntry(entry) {
  const level = badge();
  setBadge(level, entry.level === "error" ? "bad" : "warn", entry.source === "dead letter" ? "dead letter" : entry.level === "error" ? "error" : "warning");
  return h("li", { class: `entry ${entry.level}`, "data-key": `${entry.process} ${entry.host_id} ${entry.number}` },
    h("time", { datetime: entry.time, title: entry.time }, clock(entry.time)), level,
    h("span", { class: "who" }, entry.host_id),
    h("div", { class: "text" }, h("p", {}, entry.message, entry.actor ? actorLink(entry.actor) : null),
      entry.detail ? h("p", { class: "detail" }, entry.detail) : null),
    h("span", { class: "source" }, entry.source === "dead letter" ? "" : entry.source));
}
