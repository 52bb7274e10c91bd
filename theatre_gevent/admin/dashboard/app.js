// The frame: pages, keys, theme, and what is wrong right now.
import { $, h, mark, put, say } from "./dom.js";
import { onUpdate, poll, stateOf, store } from "./store.js";
import { overviewPage } from "./overview.js";
import { hostsPage } from "./hosts.js";
import { actorPage, actorsPage } from "./actors.js";
import { logPage, schedulesPage } from "./lists.js";

const PAGES = { overview: overviewPage, hosts: hostsPage, actors: actorsPage, actor: actorPage, schedules: schedulesPage, log: logPage };
const NUMBERED = ["overview", "hosts", "actors", "schedules", "log"];
let page = null;

function open() {
  const [name, query] = location.hash.replace(/^#\//, "").split(/\?(.*)/s);
  const shown = PAGES[name] ? name : "overview";
  page?.stop();
  for (const link of document.querySelectorAll("[data-page]")) {
    if (link.dataset.page === shown || (shown === "actor" && link.dataset.page === "actors")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${shown} · theatre_gevent`;
  page = PAGES[shown]($("main"), new URLSearchParams(query ?? ""));
  window.scrollTo(0, 0);
}

// -- what is wrong --------------------------------------------------------------------------------------------------

function frame() {
  const hosts = [...store.hosts.values()];
  const silent = hosts.filter((host) => stateOf(host).text);
  const health = $("health");
  if (store.error) {
    say(health, "no answer");
    mark(health, "health bad");
  } else {
    say(health, hosts.length ? `${hosts.length - silent.length} of ${hosts.length} ${hosts.length === 1 ? "host answers" : "hosts answer"}` : "");
    mark(health, `health ${silent.length ? "bad" : hosts.some((host) => stateOf(host).kind !== "good") ? "warn" : "good"}`);
  }
  const texts = store.error ? [`No figures: ${store.error}.`] : silent.map((host) => stateOf(host).text);
  const alerts = $("alerts");
  if (alerts.dataset.texts !== JSON.stringify(texts)) {
    alerts.dataset.texts = JSON.stringify(texts);
    put(alerts, texts.map((text) => h("p", {}, text)));
  }
}

// -- theme and pause ------------------------------------------------------------------------------------------------

function otherTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theatre-theme", root.dataset.theme);
  } catch { /* it lasts for this page then */ }
  document.dispatchEvent(new Event("theme"));
}

function pause() {
  store.paused = !store.paused;
  $("pause").setAttribute("aria-pressed", String(store.paused));
  say($("pause"), store.paused ? "Go on" : "Pause");
}

// -- keys -----------------------------------------------------------------------------------------------------------

function step(by) {
  const rows = [...document.querySelectorAll("main tr[tabindex]")];
  if (!rows.length) return false;
  const at = rows.indexOf(document.activeElement);
  rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + by))].focus();
  return true;
}

const KEYS = {
  p: pause,
  t: otherTheme,
  "?": () => $("keys").showModal(),
  n: () => page?.next?.(),
  b: () => page?.before?.(),
  j: () => step(1),
  k: () => step(-1),
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  Escape: () => { if (page?.up) location.hash = page.up; },
  "/": () => {
    if ($("actor-prefix")) $("actor-prefix").focus();
    else { location.hash = "#/actors"; setTimeout(() => $("actor-prefix")?.focus(), 50); }
  },
};

document.addEventListener("keydown", (event) => {
  const at = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
  if (at.matches("input, select, textarea")) {
    if (event.key === "Escape") at.blur();
    else if (event.key === "ArrowDown" && at.matches("input") && step(1)) event.preventDefault();
    return;
  }
  if (event.key === "Enter" && at.dataset?.href) {
    location.hash = at.dataset.href;
    return;
  }
  const number = Number(event.key);
  if (number >= 1 && number <= NUMBERED.length) {
    location.hash = `#/${NUMBERED[number - 1]}`;
    return;
  }
  const action = KEYS[event.key];
  if (action && action() !== false) event.preventDefault();
});

document.addEventListener("click", (event) => {
  const row = event.target.closest("tr[data-href]");
  if (row && !event.target.closest("a") && !String(getSelection())) location.hash = row.dataset.href;
});

$("theme").addEventListener("click", otherTheme);
$("pause").addEventListener("click", pause);
$("help").addEventListener("click", () => $("keys").showModal());
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("theme")));
window.addEventListener("hashchange", open);
onUpdate(frame);
open();
poll();
