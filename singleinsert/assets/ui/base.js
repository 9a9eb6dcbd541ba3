// What all screens use: elements, requests, addresses, repetition.

const OUTLIVING = 20000;  // characters that a browser still sends when the page is left: 64 kB of all requests together
const KEYS = { class: "className", for: "htmlFor" };

/** An element: h("a", {href: "/"}, "text", child). What is null or false among the children is left out. */
export function h(tag, facts = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(facts)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in KEYS) element[KEYS[key]] = value;
    else if (key in element && typeof value !== "string") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

/** The same in SVG. */
export function s(tag, facts = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(facts)) element.setAttribute(key, value);
  element.append(...children.flat(3).filter(Boolean));
  return element;
}

/** Ask the program. Throws an Error whose message is the one line for the user. */
export async function ask(method, path, body) {
  const headers = { "X-SingleInsert": "1" };
  let content = body;
  if (body !== undefined && !(body instanceof Blob)) {
    headers["Content-Type"] = "application/json";
    content = JSON.stringify(body);
  } else if (body instanceof Blob) headers["Content-Type"] = "application/octet-stream";
  const size = content?.size ?? content?.length ?? 0, keepalive = method !== "GET" && size < OUTLIVING;
  let reply;
  try {
    reply = await fetch("/api/" + path, { method, headers, body: content, keepalive });
  } catch {
    throw Object.assign(new Error("the program does not answer: is singleinsert ui still running?"), { offline: true });
  }
  const kind = reply.headers.get("Content-Type") || "";
  if (reply.status === 401) location.reload();
  const value = kind.startsWith("application/json") ? await reply.json() : await reply.blob();
  if (!reply.ok) throw Object.assign(new Error(value.error || `refused (${reply.status})`), { status: reply.status });
  return value;
}

export const get = path => ask("GET", path);
export const part = encodeURIComponent;

let timer = 0;
/** A line for a moment. */
export function say(text) {
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => { toast.hidden = true; }, 6000);
}

/** A handler that shows what goes wrong, and does not run twice at once. */
export function doing(work) {
  let busy = false;
  return async event => {
    if (busy) return;
    busy = true;
    const button = event?.currentTarget;
    if (button instanceof HTMLButtonElement) button.disabled = true;
    try { await work(event); } catch (problem) { say(problem.message); } finally {
      busy = false;
      if (button instanceof HTMLButtonElement) button.disabled = false;
    }
  };
}

/** Repeat while the screen is shown; at once, and again after each answer. A problem is told by `trouble`. */
export function every(milliseconds, signal, work, trouble = () => {}) {
  const round = async () => {
    if (signal.aborted) return;
    try { await work(); } catch (problem) { if (!signal.aborted) trouble(problem); }
    if (!signal.aborted) setTimeout(round, document.hidden ? milliseconds * 4 : milliseconds);
  };
  return round();
}

const waiting = new Set();
addEventListener("pagehide", () => { for (const now of waiting) now(); });

/** The last of many calls in a row, a moment later; at once when the page is left or loaded again, and by flush(),
 * which resolves when all of it is done. */
export function settled(milliseconds, work) {
  let pending = 0, last = [], done = null;
  const now = () => { clearTimeout(pending); waiting.delete(now); done = Promise.all([done, work(...last)]); };
  const call = (...facts) => { clearTimeout(pending); last = facts; waiting.add(now); pending = setTimeout(now, milliseconds); };
  call.flush = async () => { if (waiting.has(now)) now(); await done; };
  return call;
}

export function go(address, replace = false) {
  history[replace ? "replaceState" : "pushState"](null, "", address);
  dispatchEvent(new PopStateEvent("popstate"));
}

export function percent(share) { return (100 * share).toFixed(share < 0.1 ? 1 : 0) + " %"; }

export function size(bytes) { return bytes < 1e8 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`; }

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export function copier(text, label = "Copy") {
  return h("button", { type: "button", onclick: doing(async () => {
    const value = typeof text === "function" ? text() : text;
    try { await navigator.clipboard.writeText(value); } catch {
      const area = h("textarea", {}, value);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    say("copied");
  }) }, label);
}

export function pill(state, text = state) { return h("span", { class: `pill ${state}` }, text); }

/** A choice of one among several, as buttons that arrow keys move through. */
export function choice(name, options, value, onchange) {
  const group = h("div", { class: "row", role: "radiogroup", "aria-label": name });
  const show = chosen => [...group.children].forEach(button => {
    const on = button.dataset.value === chosen;
    button.setAttribute("aria-checked", String(on));
    button.tabIndex = on || (!options.some(([key]) => key === chosen) && button === group.firstChild) ? 0 : -1;
  });
  for (const [key, label] of options) {
    group.append(h("button", { type: "button", role: "radio", "data-value": key, onclick: () => { show(key); onchange(key); } }, label));
  }
  group.onkeydown = event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...group.children], next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    next.click();
  };
  show(value);
  group.show = show;
  return group;
}

/** Two pictures under one handle. */
export function wipe(under, over, labels) {
  const top = h("img", { src: over, alt: labels[1], class: "top" });
  const range = h("input", { type: "range", min: 0, max: 100, value: 50, class: "wide", "aria-label": `${labels[0]} to ${labels[1]}` });
  const show = () => { top.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`; };
  range.oninput = show;
  show();
  return h("div", {}, h("div", { class: "wipe" }, h("img", { src: under, alt: labels[0] }), top), range,
    h("div", { class: "row apart soft" }, h("small", {}, labels[1]), h("small", {}, labels[0])));
}
