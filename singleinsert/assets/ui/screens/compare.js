// Two runs side by side: what differs in their settings, their curves, their pictures under one handle.
import { get, go, h, part, percent, wipe } from "../base.js";
import { chart, History, moment } from "../curve.js";

const file = (run, name) => `/api/runs/${part(run)}/file/${part(name)}`;

function pictures(names, histories) {
  const [a, b] = histories.map(each => each.samples.filter(sample => sample.stage !== "before").at(-1));
  if (!a || !b) return h("p", { class: "soft" }, "One of them has no pictures yet.");
  const both = a.prompts.map((prompt, i) => [prompt, a.files[i], b.files[b.prompts.indexOf(prompt)], a.seeds[i], b.seeds[b.prompts.indexOf(prompt)]]).filter(each => each[2]);
  if (!both.length) return h("p", { class: "soft" }, "They have no prompt in common.");
  return [h("p", { class: "soft" }, `${names[0]}: ${moment(a)}; ${names[1]}: ${moment(b)}`), h("div", { class: "cards" }, both.map(([prompt, first, second]) => h("figure", { class: "card" }, wipe(file(names[1], second), file(names[0], first), [names[1], names[0]]), h("figcaption", {}, prompt.replace(/\* |<\w+> /g, "")))))];
}

/** What came back of the photo with each, where their trainings have looked. */
function cameBack(names, runs) {
  const looked = runs.map(run => Object.values(run.events.findLast(event => event.event === "looked")?.concepts || {})[0]);
  if (!looked.some(Boolean)) return "";
  const value = (each, kind) => Number.isFinite(each?.[kind]) ? percent(Math.min(1, Math.max(0, each[kind]))) : "-";
  return h("div", { class: "card" }, h("h2", {}, "What came back of the photo"), h("table", { class: "plain", id: "came-back" }, h("thead", {}, h("tr", {}, ["", ...names].map(title => h("th", {}, title)))),
    h("tbody", {}, ["background", "pose"].map(kind => h("tr", {}, h("td", {}, kind), looked.map(each => h("td", {}, value(each, kind))))))));
}

export async function show(place) {
  const asked = new URLSearchParams(location.search), all = (await get("concepts")).concepts.filter(each => each.steps);
  const chosen = ["a", "b"].map(key => asked.get(key) || "");
  const pick = index => h("div", { class: "grow" }, h("label", { for: `pick${index}` }, index ? "with" : "Compare"), h("select", { id: `pick${index}`, class: "wide", onchange: event => {
    chosen[index] = event.target.value;
    if (chosen[0] && chosen[1]) go(`/compare?a=${part(chosen[0])}&b=${part(chosen[1])}`, true);
  } }, h("option", { value: "" }, "choose ..."), all.map(run => h("option", { value: run.name, selected: run.name === chosen[index] }, run.name))));
  const head = [h("h1", {}, "Compare two runs"), h("div", { class: "card row" }, pick(0), pick(1))];
  if (!chosen[0] || !chosen[1]) {
    place.replaceChildren(...head, h("p", { class: "soft" }, all.length < 2 ? "Two runs are needed: train one again with other settings, from its page." : "Choose two: what differs in their settings, both curves, and their pictures under one handle."));
    return;
  }
  const told = await get(`compare?a=${part(chosen[0])}&b=${part(chosen[1])}`);
  const histories = told.runs.map(run => { const one = new History(); one.take(run.events); return one; });
  const shown = value => Array.isArray(value) ? value.join(", ") : String(value ?? "");
  place.replaceChildren(...head, h("div", { class: "card" }, h("h2", {}, "What differs"), told.settings.length ? h("div", { class: "scroll" }, h("table", { class: "plain", id: "differ" }, h("thead", {}, h("tr", {}, ["setting", ...chosen].map(title => h("th", {}, title)))),
    h("tbody", {}, told.settings.map(row => h("tr", {}, h("td", {}, h("code", {}, row.key)), h("td", {}, shown(row.a)), h("td", {}, shown(row.b))))))) : h("p", {}, "Nothing: they have the same settings.")),
  cameBack(chosen, told.runs), h("div", { class: "card" }, h("h2", {}, "Loss, all terms together"), chart("", histories[0], [histories[1]]), h("p", { class: "row" }, h("small", { class: "k1" }, `\u25cf ${chosen[0]}`), h("small", { class: "k2" }, `\u25cf ${chosen[1]}`))),
  h("div", { class: "card" }, h("h2", {}, "Pictures"), pictures(chosen, histories)));
}
