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

// Text that changes every second: the node is touched only if it does.
export function say(element, text) {
  const value = String(text);
  if (element.textContent !== value) element.textContent = value;
}

export function mark(element, name) {
  if (element.className !== name) element.className = name;
}

export const $ = (id) => document.getElementById(id);
