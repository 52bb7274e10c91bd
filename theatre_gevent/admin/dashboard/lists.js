// Schedules, and the log of what went wrong lately.
import { h, put, renew, say } from "./dom.js";
import { ahead, clock, count } from "./format.js";
import { get } from "./api.js";
import { onUpdate } from "./store.js";
import { actorHref, logEntry, silentNote } from "./actors.js";

function page(root, title, path, every, show, head) {
  const note = h("div", {});
  const found = h("span", { class: "found", role: "status" });
  const list = h("div", {});
  put(root, h("h1", {}, title), head, note, list);
  let over = false;
  let data = null;

  async function ask() {
    try {
      data = await get(path, { limit: 1000 });
      if (over) return;
      put(note, silentNote(data.silent));
      renew(list, show(data, found));
    } catch (error) {
      if (!over) put(note, h("p", { class: "why bad" }, error.message));
    }
  }

  let turn = 0;
  const stop = onUpdate(() => { turn += 1; if (turn % every === 0) ask(); });
  ask();
  return { stop() { over = true; stop(); }, again: () => data && put(list, show(data, found)), found };
}

export function schedulesPage(root) {
  return page(root, "Schedules", "cluster/all-schedules", 3, (data) => [
    h("p", { class: "found" }, `${count(data.total)} pending${data.total > data.schedules.length ? `, the first ${data.schedules.length} of them here` : ""}`),
    data.schedules.length ? h("div", { class: "table-wrap card" }, h("table", { class: "rows", id: "schedules-table" },
      h("thead", {}, h("tr", {}, ["Next", "At", "Actor", "Kind", "Expression", "Message", "Attempt", "Error", "Host", "Id"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, data.schedules.map((one) => h("tr", { tabindex: 0, "data-key": one.id, "data-href": actorHref(one.actor_type, one.actor_id) },
        h("td", { "data-label": "Next" }, ahead(one.next_fire)),
        h("td", { "data-label": "At" }, clock(one.next_fire)),
        h("td", { "data-label": "Actor", class: "id" }, h("a", { href: actorHref(one.actor_type, one.actor_id), tabindex: -1 }, `${one.actor_type}/${one.actor_id}`)),
        h("td", { "data-label": "Kind" }, one.kind),
        h("td", { "data-label": "Expression" }, one.cron_expr ? `${one.cron_expr} ${one.tz ?? ""}` : ""),
        h("td", { "data-label": "Message", class: "id" }, one.body),
        h("td", { "data-label": "Attempt" }, one.attempt || ""),
        h("td", { "data-label": "Error", class: "id bad", title: one.error }, one.error ?? ""),
        one.host_id ? h("td", { "data-label": "Host" }, one.host_id)
          : h("td", { "data-label": "Host", title: "Kept in the database: whichever host is there sends it." }, "any"),
        h("td", { "data-label": "Id", class: "id" }, one.id))))))
      : h("p", { class: "empty card" }, "No schedule is pending."),
  ]);
}

export function logPage(root) {
  const kind = h("select", { id: "log-kind", "aria-label": "Kind" },
    [["", "everything"], ["error", "errors"], ["warn", "warnings"], ["dead letter", "dead letters"]].map(([value, text]) => h("option", { value }, text)));
  const words = h("input", { type: "search", id: "log-words", placeholder: "holds …", "aria-label": "Words" });
  const found = h("span", { class: "found", role: "status" });
  const head = h("form", { class: "filter card", onsubmit: (event) => event.preventDefault() }, kind, words, found);
  const shown = page(root, "Log", "cluster/all-errors", 2, (data) => {
    const text = words.value.toLowerCase();
    const entries = data.errors.filter((entry) => {
      const mine = entry.source === "dead letter" ? "dead letter" : entry.level;
      if (kind.value && kind.value !== mine) return false;
      return !text || `${entry.message} ${entry.actor ?? ""} ${entry.detail ?? ""} ${entry.host_id}`.toLowerCase().includes(text);
    });
    say(found, `${count(entries.length)} of ${count(data.errors.length)}`);
    return entries.length ? h("ol", { class: "log card", id: "log" }, entries.map(logEntry)) : h("p", { class: "empty card" }, data.errors.length ? "Nothing matches." : "Nothing went wrong lately.");
  }, head);
  kind.addEventListener("change", shown.again);
  words.addEventListener("input", shown.again);
  return shown;
}
