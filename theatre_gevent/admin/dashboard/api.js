// Asking the host that this page came from; it asks the others.
import { $ } from "./dom.js";

let token = null;
try {
  token = sessionStorage.getItem("theatre-token");
} catch { /* storage is forbidden here: the token is asked for again */ }
let asking = null;

export class Failed extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

function askForToken(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = $("ask-token");
    $("token-wrong").hidden = !wrong;
    $("token").value = "";
    dialog.addEventListener("close", () => {
      token = $("token").value.trim();
      try {
        sessionStorage.setItem("theatre-token", token);
      } catch { /* as above */ }
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

export async function get(path, query = {}, signal = undefined) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const target = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  for (;;) {
    const used = token;
    let response;
    try {
      response = await fetch(target, { headers: used ? { Authorization: `Bearer ${used}` } : {}, cache: "no-store", signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failed("the host that this page came from does not answer", 0);
    }
    if (response.status === 401) {
      if (used === token) await askForToken(Boolean(used));
      continue;
    }
    let data = null;
    try {
      data = await response.json();
    } catch {
      throw new Failed(`the answer of ${path} can't be read`, response.status);
    }
    if (!response.ok) throw new Failed(data.error ?? `error ${response.status}`, response.status);
    return data;
  }
}
