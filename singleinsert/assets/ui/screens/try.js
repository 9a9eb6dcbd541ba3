// Trying a concept: a prompt, strengths by seeds, where it acts, and the base model beside it.
import { ask, choice, copier, doing, get, h, part, wipe } from "../base.js";
import { drawn, follow, statusLine } from "../drawing.js";
import { tabs } from "../tabs.js";

const IDEAS = ["{concept}", "{concept} in the snow", "{concept} on the beach", "a painting of {concept}", "{concept} wearing sunglasses", "{concept} in a garden at night"];

export async function show(place, { name }, signal) {
  const [run, all] = await Promise.all([get(`runs/${part(name)}?after=0`), get("concepts")]);
  const others = all.concepts.filter(each => each.state === "done" && each.name !== name && each.base === run.base);
  const settings = await get(`runs/${part(name)}/settings`).catch(() => ({}));
  const together = run.things.map(thing => `{${thing}}`).join(" and ") || "{concept}";  // of a scene, every thing by its name
  const prompt = h("textarea", { id: "prompt", rows: 2 }, `${together} in the snow`);
  const ideas = [...new Set([...(run.things.length ? [] : run.prompts), ...run.things.map(thing => `a photo of a {${thing}}`), ...IDEAS.map(idea => idea.replace("{concept}", together))])].slice(0, 9);
  const second = h("select", { id: "second", class: "wide", onchange: () => { if (second.value) prompt.value = `{${name}} and {${second.value}}`; } }, h("option", { value: "" }, "none"), others.map(each => h("option", { value: each.name }, `${each.name} (${each.class_word})`)));
  const number = (id, label, value, facts) => [h("label", { for: id }, label), h("input", { type: "number", id, value: String(value), ...facts })];
  const weaker = new URLSearchParams(location.search).get("strength");
  let chosen = weaker && /^[0-9.]+$/.test(weaker) ? `${weaker},1` : "1";
  const strengths = choice("strengths", [["1", "1"], ["0.6,1", "0.6 and 1"], ["0.4,0.7,1", "0.4, 0.7, 1"], ["0.5,1,1.3", "0.5, 1, 1.3"], ["0.7,1", "0.7 and 1"]], chosen, value => { chosen = value; });
  const base = h("input", { type: "checkbox", id: "with-base", checked: true }), attention = h("input", { type: "checkbox", id: "with-maps" });
  const result = h("div", { id: "result", class: "stack" }, h("p", { class: "soft" }, "Pictures come here. A worker draws them between two trainings."),
    run.preview ? h("figure", {}, h("img", { src: `/api/runs/${part(name)}/file/${part(run.preview)}`, alt: "" }), h("small", {}, "the last sample of its training")) : "");
  const field = id => Number(document.getElementById(id).value);
  const render = (id, told) => {
    const { wish, files } = told, columns = wish.seeds.length, rows = [...(wish.base ? ["base model"] : []), ...wish.strengths.map(value => `strength ${value}`)];
    const table = h("table", {}, h("tbody", {}, h("tr", {}, h("th", {}), wish.seeds.map(seed => h("th", { scope: "col" }, `seed ${seed}`))),
      rows.map((title, row) => h("tr", {}, h("th", { scope: "row" }, title), wish.seeds.map((seed, column) => {
        const index = row * columns + column, file = `${String(index).padStart(2, "0")}.png`;
        return h("td", {}, files.includes(file) ? h("a", { href: drawn(id, file), target: "_blank", rel: "noopener" }, h("img", { src: drawn(id, file), alt: `${wish.prompt}, ${title}, seed ${seed}`, "data-file": file })) : h("div", { class: "empty" }));
      })))));
    const words = [...new Set(Object.values(told.maps).flat())];
    const overlay = words.length ? h("fieldset", {}, h("legend", {}, "Where it acts"), choice("where it acts", [["", "picture"], ...words.map(word => [word, word === "*" ? name : word])], "", value => {
      for (const image of table.querySelectorAll("img")) {
        const file = image.dataset.file, index = value ? (told.maps[file.slice(0, 2)] || []).indexOf(value) : -1;
        image.src = drawn(id, index >= 0 ? file.replace(".png", `_map${index}.png`) : file);
      }
    })) : null;
    const last = `${String(rows.length * columns - columns).padStart(2, "0")}.png`;
    const beside = wish.base && files.includes("00.png") && files.includes(last) ? h("div", {}, h("h3", {}, "The base model beside it"), wipe(drawn(id, "00.png"), drawn(id, last), ["base model", "with the concept"])) : null;
    const words2 = ["singleinsert", "infer", ...wish.concepts.flatMap(each => ["--concept", each]), "--prompt", `'${wish.prompt}'`, "--seed", wish.seeds[0], "--num_images", columns, "--num_inference_steps", wish.steps, "--guidance_scale", wish.guidance_scale];
    result.replaceChildren(statusLine(told), overlay || "", h("div", { class: "strip", tabindex: "0", "aria-label": "pictures" }, table), beside || "", h("div", {}, copier(words2.join(" "), "Copy as a command")));
  };
  const draw = doing(async () => {
    const count = field("count"), seed = field("seed");
    const wish = { concepts: [name, ...(second.value ? [second.value] : [])], prompt: prompt.value.trim(), seeds: [...Array(count).keys()].map(i => seed + i), strengths: chosen.split(",").map(Number),
      base: base.checked, attention: attention.checked, steps: field("steps"), guidance_scale: field("guidance") };
    const { id } = await ask("POST", "pictures", wish);
    history.replaceState(null, "", `?drawn=${id}`);
    follow(id, signal, told => render(id, told));
    result.replaceChildren(h("p", { class: "soft", role: "status" }, "asked for \u2026"));
  });
  place.replaceChildren(tabs(name, "/try"), h("h1", {}, `Try ${name}`), run.state !== "done" ? h("p", { class: "look" }, "It is not done yet: come back when it is.") : "", h("div", { class: "two" },
    h("div", { class: "card" }, result),
    h("div", { class: "card stack" }, h("div", {}, h("label", { for: "prompt" }, "Prompt"), prompt,
      h("div", { class: "row" }, ideas.map(idea => h("button", { type: "button", onclick: () => { prompt.value = idea; } }, idea))),
      h("small", {}, run.things.length ? `Each is called by its name: ${[...run.things, ...(run.background ? ["background"] : [])].map(thing => `{${thing}}`).join(", ")}.` : `{concept} is ${name} and its class word, * the concept alone.`)),
    h("div", {}, h("label", { for: "second" }, "With a second concept"), second), h("fieldset", {}, h("legend", {}, "Strength of the LoRA"), strengths),
    h("div", { class: "row" }, h("div", {}, number("count", "Pictures", 2, { min: "1", max: "8" })), h("div", {}, number("seed", "First seed", 0, { min: "0", max: "99999" })),
      h("div", {}, number("steps", "Steps", settings["sample.num_inference_steps"] || 50, { min: "1", max: "200" })), h("div", {}, number("guidance", "Guidance", settings["sample.guidance_scale"] || 7.5, { min: "0", max: "30", step: "0.5" }))),
    h("label", { class: "inline" }, base, "the base model beside it"), h("label", { class: "inline" }, attention, "where it acts (slower)"),
    h("button", { type: "button", class: "primary", id: "draw", onclick: draw, disabled: run.state !== "done" }, "Draw"))));
  const open = new URLSearchParams(location.search).get("drawn");
  if (open) follow(open, signal, told => render(open, told));
}
