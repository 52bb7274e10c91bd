// Elements from text alone: nothing here, or anywhere else in the dashboard, ever reads text as HTML.

export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "onclick" || name === "oninput" || name === "onsubmit" || name === "onchange") {
      element.addEventListener(name.slice(2), value);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function put(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

// Put what was asked for anew in the place of what is shown, for who reads it or goes through it by keyboard: what is the
// same stays, a selection of text is not taken away, and the focus goes to what has the same `data-key`, or its place.
export function renew(parent, ...children) {
  const fresh = parent.cloneNode(false);
  put(fresh, children);
  if (fresh.isEqualNode(parent)) return;
  const selection = getSelection();
  if (!selection.isCollapsed && [...parent.childNodes].some((child) => selection.containsNode(child, true))) return;
  const at = parent.contains(document.activeElement) ? document.activeElement : null;
  const keyed = at?.closest("[data-key]");
  const place = keyed ? [...parent.querySelectorAll("[data-key]")].indexOf(keyed) : -1;
  const scrolled = parent.querySelector(".table-wrap")?.scrollLeft ?? 0;
  put(parent, [...fresh.childNodes]);
  const wrap = parent.querySelector(".table-wrap");
  if (wrap) wrap.scrollLeft = scrolled;
  if (!keyed) return;
  const now = [...parent.querySelectorAll("[data-key]")];
  const next = now.find((one) => one.dataset.key === keyed.dataset.key) ?? now[Math.min(place, now.length - 1)];
  (at === keyed ? next : next?.querySelector(at.tagName))?.focus({ preventScroll: true });
}

// Text that changes every second: the node is touched only if it does.
export function say(element, text) {
  const value = String(text);
  if (element.textContent !== value) element.textContent = value;
}

export function mark(element, name) {
  if (element.className !== name) element.className = name;
}

export const $ = (id) => document.getElementById(id);
