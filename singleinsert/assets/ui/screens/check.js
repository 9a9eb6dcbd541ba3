// Did it entangle? What came back of the photo with the concept, and what makes it better.
import { ask, doing, get, go, h, part, percent } from "../base.js";
import { drawn, follow, statusLine } from "../drawing.js";
import { tabs } from "../tabs.js";

const MEANING = { background: "the place of the photo comes back around it", pose: "it is turned as in the photo" };
const PICTURES = 8, FEWER = 0.6, WEAKER = "0.7";

function measures(told) {
  return Object.entries(told).map(([name, each]) => h("div", {}, h("h3", {}, name), ["background", "pose"].map(kind => {
    const value = each[kind], learnt = (each.learnt || []).includes(kind);
    if (value === null || value === undefined) return h("p", { class: "soft" }, `${kind}: cannot be measured on this photo`);
    const shown = Math.min(1, Math.max(0, value));
    return h("div", {}, h("p", { class: learnt ? "bad" : "good" }, `${kind} ${percent(shown)}: ${learnt ? MEANING[kind] : "not with it"}`),
      h("progress", { max: 1, value: shown, "aria-label": `${kind} of ${name}` }));
  })));
}

export async function show(place, { name }, signal) {
  const at = `runs/${part(name)}`, run = await get(`${at}?after=0`), settings = await get(`${at}/settings`).catch(() => ({}));
  const looked = run.events.findLast(event => event.event === "looked");
  const said = run.events.findLast(event => event.event === "line" && event.text.startsWith("comes back"));
  const result = h("div", { id: "result", class: "stack" });
  const shown = id => follow(id, signal, told => result.replaceChildren(told.state === "done" ? h("p", { id: "verdict" }, told.reason) : statusLine(told),
      told.files.includes("00.png") ? h("a", { href: drawn(id, "00.png"), target: "_blank", rel: "noopener" }, h("img", { src: drawn(id, "00.png"), alt: "the photo, pictures with the concept, and pictures of the class word" })) : ""));
  const closer = doing(async () => {
    const seeds = [...Array(PICTURES).keys()];
    const { id } = await ask("POST", "pictures", { concepts: [name], prompt: "check", seeds, check: true });
    history.replaceState(null, "", `?drawn=${id}`);
    shown(id);
  });
  const again = body => doing(async () => {
    const found = await ask("POST", `${at}/again`, body);
    go(found.draft ? `/new/${found.draft}/${body.screen}` : `/runs/${part(found.name)}`);
  });
  const steps = settings["stage2.steps"], fewer = Math.max(1, Math.round(FEWER * steps));
  place.replaceChildren(tabs(name, "/check"), h("h1", {}, `Did ${name} entangle?`), h("div", { class: "two" },
    h("div", { class: "card stack" }, h("h2", {}, "What came back of the photo"), looked ? measures(looked.concepts) : h("p", { class: "soft" }, run.state === "done" ? "Its training has not looked: it was too short for that, or told not to." : "It is not done yet."),
      said ? h("p", {}, said.text) : "", h("div", {}, h("button", { type: "button", id: "closer", class: looked ? "" : "primary", onclick: closer, disabled: run.state !== "done" }, `Look closely, with ${PICTURES} pictures`)), result),
    h("div", { class: "card stack" }, h("h2", {}, "What makes it better"), run.own ? [
      h("button", { type: "button", id: "fewer", class: looked && Object.values(looked.concepts).some(each => each.learnt?.length) ? "primary" : "", onclick: again({ settings: { "stage2.steps": fewer } }), disabled: !steps }, `Train it again with ${fewer} in place of ${steps} steps`),
      h("button", { type: "button", onclick: again({ draft: true, screen: "describe" }) }, "Say the place and the pose in a description"),
      h("button", { type: "button", onclick: again({ draft: true, screen: "mask" }) }, "Correct the mask: it may hold more than the subject")] : h("p", { class: "soft" }, "It was not started here: train it again with its command."),
      h("a", { href: `/runs/${part(name)}/try?strength=${WEAKER}` }, `Draw it with the LoRA at ${WEAKER}`),
      h("p", { class: "soft" }, "\u201ca photo of it\u201d is drawn with the concept and, from the same noise, with the class word alone. What makes the first come nearer to the photo where the subject is not, has been learnt with it."))));
  const open = new URLSearchParams(location.search).get("drawn");
  if (open) shown(open);
}
