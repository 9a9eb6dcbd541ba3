// All concepts: what trains, what waits, what is done, and drafts.
import { ask, doing, duration, every, get, go, h, part, percent, pill, say } from "../base.js";
import { dropPlace, startExample } from "../dropping.js";

export function describeState(card) {
  const done = card.steps ? Math.round(100 * card.done_steps / card.steps) : 0;
  if (card.state === "running") return `training, ${done} %`;
  if (card.state === "queued" && card.place) return card.place === 1 ? "next in the queue" : `number ${card.place} in the queue`;
  return { loading: "loading the base model", failed: "failed", stopped: "stopped", interrupted: "interrupted" }[card.state] || card.state;
}

function cardOf(card) {
  const picture = card.preview ? `/api/runs/${part(card.name)}/file/${part(card.preview)}` : card.source ? `/api/runs/${part(card.name)}/source` : "";
  const facts = [card.class_word, card.base].filter(Boolean).join(" \u00b7 ");
  return h("a", { href: `/runs/${part(card.name)}`, class: "card concept" },
    picture ? h("img", { src: picture, class: "thumb", alt: "", loading: "lazy" }) : h("div", { class: "thumb blank", "aria-hidden": "true" }, card.name[0]),
    h("h2", {}, card.name), h("p", { class: "soft" }, facts),
    h("div", { class: "row" }, pill(card.state, describeState(card)),
      card.seconds_left && card.state === "running" ? h("small", {}, `about ${duration(card.seconds_left)} left`) : null),
    card.state === "running" ? h("progress", { max: card.steps || 1, value: card.done_steps, "aria-label": `steps of ${card.name}` }) : null,
    card.state === "failed" ? h("p", { class: "bad" }, card.reason) : null,
    card.mask_share && card.state === "done" ? h("small", {}, `mask ${percent(card.mask_share)} of the photo`) : null);
}

function draftOf(draft, redraw) {
  const remove = h("button", { type: "button", class: "quiet danger", "aria-label": `delete the draft ${draft.name}`, onclick: doing(async () => {
    await ask("DELETE", `drafts/${draft.id}`);
    await redraw();
  }) }, "Delete");
  return h("div", { class: "card" }, h("img", { src: `/api/drafts/${draft.id}/photo.png`, class: "thumb small", alt: "", loading: "lazy" }),
    h("h3", {}, draft.name || "without a name"), h("p", { class: "soft" }, draft.class_word || "nothing said yet"),
    h("div", { class: "row" }, h("a", { class: "button", href: `/new/${draft.id}/photo` }, "Go on"), remove));
}

function empty() {
  return h("div", { class: "card stack" }, h("h2", {}, "Nothing here yet"),
    h("p", {}, "Drop one photo above. You mark what is to be learnt, training takes minutes on a GPU, and you get two small files that A1111, ComfyUI and diffusers load."),
    h("p", {}, "No model at hand? The bundled miniature learns the bundled face on any machine in a few minutes."),
    h("div", {}, h("button", { type: "button", id: "example", class: "primary", onclick: doing(startExample) }, "Try the bundled face")));
}

export async function show(place, facts, signal) {
  const cards = h("div", { class: "cards", id: "concepts" }), drafts = h("section", { "aria-label": "Drafts" });
  const start = dropPlace("Drop a photo anywhere here to begin", signal);
  const nothing = h("div"), problems = h("div"), title = h("h2", { hidden: true }, "Started and trained");
  place.replaceChildren(h("h1", {}, "Concepts"), start, nothing, problems, drafts, title, cards);
  let before = "";
  const redraw = async () => {
    const told = await get("concepts"), text = JSON.stringify(told);
    if (text === before) return;
    before = text;
    nothing.replaceChildren(...(told.concepts.length || told.drafts.length ? [] : [empty()]));
    problems.replaceChildren(...told.problems.map(line => h("p", { class: "bad" }, line)));
    drafts.replaceChildren(...(told.drafts.length ? [h("h2", {}, "Drafts"), h("div", { class: "cards" }, told.drafts.map(draft => draftOf(draft, redraw)))] : []));
    title.hidden = !told.concepts.length || !told.drafts.length;
    cards.replaceChildren(...told.concepts.map(cardOf));
  };
  await every(2000, signal, redraw, problem => say(problem.message));
}
