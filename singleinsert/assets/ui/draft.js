// What the screens of a draft share: the way through them, and changes that are kept at once.
import { ask, get, h, settled, say } from "./base.js";

const STEPS = [["photo", "Photo"], ["mask", "Mask"], ["describe", "Description"], ["train", "Training"]];

const keepers = new Set();
/** What was typed a moment ago is kept now: before a draft is read again, or things are added to it. */
export async function caughtUp() { await Promise.all([...keepers].map(each => each.flush())); }

export async function load(id) {
  await caughtUp();
  keepers.clear();
  return get(`drafts/${id}`);
}
export const keep = (id, changes) => ask("PUT", `drafts/${id}`, changes);

/** Keeps a change a moment after the last one, and hands on what the draft then is. */
export function keeper(id, then = () => {}) {
  const kept = settled(350, async changes => {
    try { then(await keep(id, typeof changes === "function" ? changes() : changes)); } catch (problem) { say(problem.message); }
  });
  keepers.add(kept);
  return kept;
}

export function steps(id, at) {
  return h("ol", { class: "steps" }, STEPS.map(([key, title], number) =>
    h("li", {}, h("a", { href: `/new/${id}/${key}`, "aria-current": key === at ? "step" : null }, `${number + 1} ${title}`))));
}

export function onward(id, key, text) {
  return h("a", { class: "button primary", id: "next", href: `/new/${id}/${key}` }, text);
}
