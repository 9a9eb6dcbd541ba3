// Pictures that a worker draws: asked for, waited for, shown as they come.
import { every, get, h } from "./base.js";

/** Follow a request until it is over; show(told) is called whenever it has come on. */
export function follow(id, signal, show) {
  const own = new AbortController(), end = () => own.abort();
  signal.addEventListener("abort", end);
  let before = "";
  every(1000, own.signal, async () => {
    const told = await get(`pictures/${id}`), text = JSON.stringify(told);
    if (text !== before && !own.signal.aborted) show(told);
    before = text;
    if (told.state === "done" || told.state === "failed") end();
  });
}

export const drawn = (id, file) => `/api/pictures/${id}/${file}`;

export function statusLine(told) {
  if (told.state === "failed") return h("p", { class: "bad" }, told.reason);
  if (told.state === "done") return h("p", { class: "soft" }, "done");
  if (told.state === "queued") return h("p", { class: "soft" }, told.waits_for_training ? "waits: a training comes first" : "a worker begins \u2026");
  return h("div", {}, h("p", { class: "soft" }, `drawing ${told.done} of ${told.of}`), h("progress", { max: told.of || 1, value: told.done, "aria-label": "pictures drawn" }));
}
