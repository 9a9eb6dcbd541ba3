// Editing a photo with a concept: what is painted is drawn anew, the rest stays as it is.
import { ask, doing, get, go, h, part, percent, say, wipe } from "../base.js";
import { drawn, follow, statusLine } from "../drawing.js";
import { dropPlace } from "../dropping.js";
import { Painter } from "../painter.js";
import { tabs } from "../tabs.js";

export async function show(place, { name }, signal) {
  const run = await get(`runs/${part(name)}?after=0`), id = new URLSearchParams(location.search).get("photo");
  const head = [tabs(name, "/edit"), h("h1", {}, `Edit a photo with ${name}`)];
  if (!id) {
    place.replaceChildren(...head, dropPlace("Drop the photo that shall change", signal, draft => go(`/runs/${part(name)}/edit?photo=${draft.id}`)),
      h("p", { class: "soft" }, "You paint the part that is drawn anew with the concept in it; nothing else of the photo changes."));
    return;
  }
  const draft = await get(`drafts/${id}`), settings = await get(`runs/${part(name)}/settings`).catch(() => ({}));
  const share = h("strong", {}), result = h("div", { id: "result", class: "stack" });
  const painter = new Painter({ photo: `/api/drafts/${id}/photo.png`, width: draft.width, height: draft.height, pointing: false }, {
    changed: value => { share.textContent = percent(value); }, pointed: () => {},
    kept: blob => ask("PUT", `drafts/${id}/mask/0`, blob).catch(problem => say(problem.message)),
  });
  const prompt = h("textarea", { id: "prompt", rows: 2 }, run.things.length ? `{${run.things[0]}}` : "{concept}");
  const strength = h("input", { type: "range", id: "strength", min: 0.05, max: 1, step: 0.05, value: 0.75, class: "wide" });
  const count = h("input", { type: "number", id: "count", min: "1", max: "6", value: "2" });
  const begin = told => {
    const files = told.files.map(file => wipe(`/api/drafts/${id}/photo.png`, drawn(told.id, file), ["before", "after"]));
    result.replaceChildren(statusLine(told), ...files.map((each, i) => h("div", {}, each, h("a", { href: drawn(told.id, told.files[i]), download: `${name}_edit_${i}.png`, class: "button" }, "Save"))));
  };
  const shown = request => follow(request, signal, told => begin({ ...told, id: request }));
  const draw = doing(async () => {
    const seeds = [...Array(Number(count.value)).keys()];
    const found = await ask("POST", "edits", { draft: id, concepts: [name], prompt: prompt.value.trim(), seeds, strength: Number(strength.value),
      steps: settings["sample.num_inference_steps"] || 50, guidance_scale: settings["sample.guidance_scale"] || 7.5 });
    result.replaceChildren(h("p", { class: "soft", role: "status" }, "asked for \u2026"));
    history.replaceState(null, "", `?photo=${id}&drawn=${found.id}`);
    shown(found.id);
  });
  place.replaceChildren(...head, h("div", { class: "two" }, painter.element, h("div", { class: "card stack" }, h("p", {}, "Red is drawn anew: ", share, " of the photo."),
    h("div", {}, h("label", { for: "prompt" }, "What is to be there"), prompt), h("div", {}, h("label", { for: "strength" }, "How much may change"), strength), h("div", {}, h("label", { for: "count" }, "Pictures"), count),
    h("button", { type: "button", class: "primary", id: "draw", onclick: draw, disabled: run.state !== "done" }, "Draw"), result)));
  const open = new URLSearchParams(location.search).get("drawn");
  if (open) shown(open);
  await painter.show(draft.subjects[0].mask ? `/api/drafts/${id}/mask/0` : "");
}
