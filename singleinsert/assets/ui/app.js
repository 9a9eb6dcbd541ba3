// The frame: which screen an address has, the top bar, the theme.
import { every, get, go, h, say } from "./base.js";

const SCREENS = [
  [/^\/$/, "concepts"], [/^\/new$/, "photo"], [/^\/new\/(?<id>[0-9a-z]+)\/photo$/, "photo"],
  [/^\/new\/(?<id>[0-9a-z]+)\/mask$/, "mask"], [/^\/new\/(?<id>[0-9a-z]+)\/describe$/, "describe"],
  [/^\/new\/(?<id>[0-9a-z]+)\/train$/, "train"], [/^\/runs\/(?<name>[^/]+)$/, "run"],
  [/^\/runs\/(?<name>[^/]+)\/try$/, "try"], [/^\/runs\/(?<name>[^/]+)\/check$/, "check"],
  [/^\/runs\/(?<name>[^/]+)\/get$/, "get"], [/^\/runs\/(?<name>[^/]+)\/edit$/, "edit"], [/^\/compare$/, "compare"],
  [/^\/queue$/, "queue"], [/^\/settings$/, "settings"],
];
const main = document.getElementById("screen");
let shown = new AbortController();

async function show(focus = true) {
  shown.abort();
  const mine = shown = new AbortController(), path = location.pathname;
  for (const link of document.querySelectorAll("nav a")) {
    const own = link.getAttribute("href");
    if (own === "/" ? path === "/" || path.startsWith("/runs") : path.startsWith(own)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const [pattern, name] = SCREENS.find(([each]) => each.test(path)) || [/^/, ""];
  const facts = Object.fromEntries(Object.entries(pattern.exec(path)?.groups || {}).map(([k, v]) => [k, decodeURIComponent(v)]));
  const place = h("div", { class: "stack" }, h("p", { class: "soft", role: "status" }, "Loading \u2026"));
  main.replaceChildren(place);
  try {
    if (!name) throw new Error("There is no such page.");
    const screen = await import(`./screens/${name}.js`);
    if (mine.signal.aborted) return;
    await screen.show(place, facts, mine.signal);
  } catch (problem) {
    if (mine.signal.aborted) return;
    place.replaceChildren(h("h1", {}, "This cannot be shown"), h("p", { class: "bad" }, problem.message),
      h("p", {}, h("a", { href: "/" }, "To the concepts")));
  }
  document.title = `${place.querySelector("h1")?.textContent || "SingleInsert"} \u00b7 SingleInsert`;
  if (focus) main.focus({ preventScroll: true });
}

addEventListener("popstate", () => { scrollTo(0, 0); show(); });
document.addEventListener("click", event => {
  const link = event.target.closest?.("a[href^='/']");
  if (!link || link.hasAttribute("download") || link.target || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});
// a photo that misses the place for it must not take the page away
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => event.preventDefault());

const THEMES = { auto: "\u25d0 auto", light: "\u2600 light", dark: "\u263e dark" };
const button = document.getElementById("theme");
function theme(name) {
  document.documentElement.dataset.theme = name;
  button.textContent = THEMES[name];
  button.setAttribute("aria-label", `theme: ${name}`);
  try { localStorage.setItem("theme", name); } catch { /* a browser that keeps nothing */ }
}
button.onclick = () => {
  const names = Object.keys(THEMES);
  theme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
};
theme(THEMES[document.documentElement.dataset.theme] ? document.documentElement.dataset.theme : "auto");

const top = document.getElementById("top");
let lost = false;
every(3000, new AbortController().signal, async () => {
  const state = await get("state"), counts = state.counts;
  const parts = [];
  if (counts.running) parts.push(`${counts.running} training`);
  if (counts.queued) parts.push(`${counts.queued} waiting`);
  if (state.paused) parts.push("paused");
  if (state.starting && !state.workers) parts.push("a worker starts");
  if (state.offline) parts.push("offline");
  top.replaceChildren(state.crashed ? h("a", { href: "/queue", class: "bad" }, "the worker has left: why") : parts.join(" \u00b7 ") || "idle");
  if (lost) say("the program answers again");
  lost = false;
}, problem => {
  lost ||= Boolean(problem.offline);
  top.replaceChildren(h("span", { class: "bad" }, "the program does not answer"));
});


show(false);
