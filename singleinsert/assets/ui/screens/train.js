// Training: three choices, all settings, what it will be, and the start.
import { ask, choice, copier, doing, duration, get, go, h, say, settled } from "../base.js";
import { keep, load, steps } from "../draft.js";

const MEMORY = [["auto", "What the GPU has"], ["6 GB", "6 GB"], ["4 GB", "4 GB"]];

function looked(box, told) {
  const lines = [];
  if (told.base_model) {
    const size = told.base_model.megabytes ? `, about ${told.base_model.megabytes.toLocaleString("en")} MB` : "";
    lines.push(h("li", {}, `base model ${told.base_model.source}: ${told.base_model.state}${size}`));
  }
  for (const mask of told.masks) lines.push(h("li", {}, `mask of ${mask.class_word}: ${(100 * mask.share).toFixed(1)} %, `, h("span", { class: mask.level }, mask.verdict)));
  if (told.steps) lines.push(h("li", {}, "steps: " + Object.values(told.steps).join(" + ")));
  if (told.gpu_gb) lines.push(h("li", {}, `GPU memory: ${told.gpu_gb[0]} GB at the least` + (told.gpu_gb[1] > told.gpu_gb[0] ? `, up to ${told.gpu_gb[1]} if there is that` : "")));
  lines.push(h("li", {}, told.seconds ? `time: about ${duration(told.seconds)}, as runs like it took here` : "time: known after the first run like it here"));
  for (const note of told.notes) lines.push(h("li", { class: "look" }, note));
  for (const problem of told.problems) lines.push(h("li", { class: "bad" }, problem));
  box.replaceChildren(h("ul", { class: "tight" }, lines));
}

/** One setting: its control, its help, and what it would be by itself; update() shows another state of it. */
function settingRow(field, changed, set) {
  const value = field.key in changed ? changed[field.key] : field.value, id = `s-${field.key}`;
  const shown = each => Array.isArray(each) ? each.join(", ") : String(each);
  let control;
  if (field.kind === "bool") control = h("input", { type: "checkbox", id, checked: value, onchange: () => set(field, control.checked) });
  else if (field.kind === "choice") control = h("select", { id, class: "wide", onchange: () => set(field, control.value) }, field.choices.map(each => h("option", { value: each, selected: each === value }, each)));
  else if (field.kind === "int" || field.kind === "float") {
    control = h("input", { type: "number", id, class: "wide", value: String(value), step: field.kind === "int" ? "1" : "any", min: field.minimum === null ? null : String(field.minimum),
      max: field.maximum === null ? null : String(field.maximum), onchange: () => set(field, control.value === "" ? field.value : Number(control.value)) });
  } else control = h("input", { id, class: "wide", value: shown(value), onchange: () => set(field, field.kind === "list" ? control.value.split(",").map(each => each.trim()).filter(Boolean) : control.value) });
  const help = h("small"), row = h("div", { class: ["bool", "choice", "int", "float"].includes(field.kind) ? "setting" : "setting text", "data-key": field.key }, h("label", { for: id }, field.key), control, help);
  row.update = (now, told) => {
    const own = now.key in told, is = own ? told[now.key] : now.value;
    row.classList.toggle("changed", own);
    help.textContent = field.help + (own ? ` (otherwise ${shown(now.value)})` : "");
    if (document.activeElement === control) return;  // somebody is at it
    if (field.kind === "bool") control.checked = is;
    else control.value = shown(is);
  };
  row.update(field, changed);
  row.words = `${field.key} ${field.help}`.toLowerCase();
  return row;
}

export async function show(place, { id }, signal) {
  let draft = await load(id), form = null;
  const checks = h("div", { id: "checks", role: "status" }, h("p", { class: "soft" }, "looking \u2026"));
  const list = h("div", { class: "settings-list", id: "settings" }), count = h("small", { role: "status" });
  const toml = h("textarea", { class: "code", id: "toml", rows: 12, spellcheck: "false", "aria-label": "the job as TOML" }), command = h("pre", { id: "command" });
  const look = settled(100, async () => {
    try { const told = await get(`drafts/${id}/check`); if (!signal.aborted) looked(checks, told); } catch (problem) { say(problem.message); }
  });
  const find = h("input", { type: "search", id: "search", class: "wide", placeholder: "learning rate, seed, steps ...", "aria-label": "search the settings", oninput: () => filter() });
  const only = h("input", { type: "checkbox", id: "only", onchange: () => filter() });
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0;
    for (const row of list.children) {
      row.hidden = !words.every(word => row.words.includes(word)) || (only.checked && !row.classList.contains("changed"));
      seen += !row.hidden;
    }
    count.textContent = `${seen} of ${list.children.length} settings`;
  };
  const fill = told => {
    form = told;
    const rows = new Map([...list.children].map(row => [row.dataset.key, row]));
    if (told.fields.every(field => rows.has(field.key))) told.fields.forEach(field => rows.get(field.key).update(field, told.changed));
    else list.replaceChildren(...told.fields.map(field => settingRow(field, told.changed, set)));
    toml.value = told.toml;
    command.textContent = told.command;
    filter();
    look();
  };
  const refresh = async () => fill(await get(`drafts/${id}/form`));
  const set = (field, value) => doing(async () => {
    const plain = form.fields.find(each => each.key === field.key).value;
    if (JSON.stringify(value) === JSON.stringify(plain)) delete form.changed[field.key];
    else form.changed[field.key] = value;
    try { await keep(id, { settings: form.changed }); } finally { await refresh(); }
  })();
  const choose = changes => doing(async () => { draft = await keep(id, changes); offer(); await refresh(); })();
  const quality = h("div"), offer = () => {  // its steps are the preset's, which goes by the base model
    if (!quality.contains(document.activeElement)) quality.replaceChildren(choice("quality", draft.qualities, draft.quality, chosen => choose({ quality: chosen })));
  };
  offer();
  const bases = h("select", { id: "base", class: "wide", onchange: () => bases.value === "" ? hub.focus() : choose({ base: bases.value }) },
    draft.bases.map(base => h("option", { value: base.key, selected: base.key === draft.base }, `${base.title} (${base.state})`)),
    h("option", { value: "", selected: !draft.bases.some(base => base.key === draft.base) }, "another one of the hub ..."));
  const hub = h("input", { id: "hub", class: "wide", placeholder: "OWNER/NAME of the hub", "aria-label": "model of the hub", value: draft.bases.some(base => base.key === draft.base) ? "" : draft.base,
    onchange: () => choose({ base: hub.value }) });
  const start = doing(async () => {
    const told = await ask("POST", `drafts/${id}/start`, {});
    go(`/runs/${encodeURIComponent(told.name)}`);
  });
  const apply = h("button", { type: "button", onclick: doing(async () => { fill(await ask("PUT", `drafts/${id}/toml`, { toml: toml.value })); say("taken over"); }) }, "Take over the text");
  place.replaceChildren(steps(id, "train"), h("h1", {}, `Training${draft.name ? " of " + draft.name : ""}`), h("div", { class: "two" },
    h("div", { class: "card" },
      h("fieldset", {}, h("legend", {}, "Quality"), quality),
      h("fieldset", {}, h("legend", {}, "Memory"), choice("memory", MEMORY, draft.memory, memory => choose({ memory }))),
      h("fieldset", {}, h("legend", {}, h("label", { for: "base" }, "Base model")), bases, h("details", {}, h("summary", {}, "From the hub"), hub,
        h("p", { class: "soft" }, "Models in a folder of yours are listed when the program is started with --models FOLDER.")))),
    h("div", { class: "card" }, h("h2", {}, "What it will be"), checks,
      h("button", { type: "button", class: "primary", id: "start", onclick: start }, "Start training"),
      h("p", { class: "soft" }, "You may close this page: training goes on, and is found here again."))),
  h("details", { class: "card", id: "all" }, h("summary", {}, "All settings"), h("div", { class: "row" }, h("div", { class: "grow" }, find), h("label", { class: "inline" }, only, "only what I changed"), count), list),
  h("details", { class: "card", id: "text" }, h("summary", {}, "As TOML, and as a command line"), toml, h("div", { class: "row" }, apply, copier(() => toml.value, "Copy the TOML")),
    h("h3", {}, "The same, typed"), command, copier(() => command.textContent, "Copy the command")));
  await refresh();
}
