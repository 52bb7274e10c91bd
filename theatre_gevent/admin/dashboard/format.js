// How figures are shown.

const whole = new Intl.NumberFormat("en");

export function count(value) {
  return value === null || value === undefined ? "–" : whole.format(Math.round(value));
}

export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (size >= 100 || Number.isInteger(value)) return whole.format(Math.round(value));
  return value.toFixed(1);
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  if (value >= 1) return `${value.toFixed(value >= 100 ? 0 : 1)} ms`;
  return `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} µs`;
}

export function bytes(value) {
  if (!value) return "–";
  const mib = value / 2 ** 20;
  return mib >= 1024 ? `${(mib / 1024).toFixed(2)} GiB` : `${mib.toFixed(0)} MiB`;
}

export function duration(value) {
  if (value === null || value === undefined) return "–";
  let seconds = Math.floor(value / 1000);
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (seconds >= size || (unit === "s" && !parts.length)) {
      parts.push(`${Math.floor(seconds / size)} ${unit}`);
      seconds %= size;
    }
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

export function ago(stamp) {
  if (!stamp) return "–";
  const passed = Date.now() - Date.parse(stamp);
  return passed < 1000 ? "just now" : passed < 0 ? "–" : `${duration(passed)} ago`;
}

export function ahead(stamp) {
  const left = Date.parse(stamp) - Date.now();
  return left <= 0 ? "due" : `in ${duration(left)}`;
}

export function clock(stamp) {
  const date = new Date(stamp);
  return Number.isNaN(date.getTime()) ? "–" : date.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
}
