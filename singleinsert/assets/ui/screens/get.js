// Getting the files: a zip for each client, a copy into its folder, a test in a running ComfyUI.
import { ask, copier, doing, get, h, part, say } from "../base.js";
import { tabs } from "../tabs.js";

function cardOf(name, client) {
  const zip = h("a", { class: "button primary", id: `zip-${client.key}`, href: `/api/runs/${part(name)}/zip/${client.key}`, download: `${name}_${client.key}.zip` }, "Download the zip");
  const copy = client.folders.map(folder => h("button", { type: "button", onclick: doing(async () => {
    const { files } = await ask("POST", `runs/${part(name)}/copy`, { folder });
    say(`${files.length} files copied into ${folder}`);
  }) }, `Copy into ${folder}`));
  return h("div", { class: "card" }, h("h2", {}, client.title), h("ul", { class: "tight" }, client.files.filter(file => file.name.endsWith(".safetensors")).map(file =>
    h("li", {}, h("code", {}, file.name.split("_").flatMap((word, i) => i ? ["_", h("wbr"), word] : [word])), file.goes === "." ? "" : " into ", file.goes === "." ? "" : h("code", {}, file.goes)))),
    h("p", { class: "soft" }, "Then ask for:"), h("pre", {}, client.prompt), client.besides ? h("p", { class: "soft" }, client.besides) : "", h("div", { class: "row" }, zip, copier(client.prompt, "Copy the prompt"), copy));
}

function comfyTest(name, address) {
  const box = h("div", { class: "stack" }), checkpoints = h("select", { id: "checkpoint", class: "wide" });
  const draw = h("button", { type: "button", class: "primary", onclick: doing(async () => {
    box.replaceChildren(h("p", { class: "soft", role: "status" }, "ComfyUI draws \u2026"));
    try {
      const picture = await ask("POST", `runs/${part(name)}/comfyui`, { checkpoint: checkpoints.value });
      box.replaceChildren(h("div", { class: "row" }, h("figure", {}, h("img", { src: URL.createObjectURL(picture), alt: "drawn by ComfyUI" }), h("figcaption", {}, "ComfyUI")),
        h("figure", {}, h("img", { src: `/api/runs/${part(name)}/file/${part(name)}.preview.png`, alt: "drawn here" }), h("figcaption", {}, "here"))));
    } catch (problem) { box.replaceChildren(h("p", { class: "bad" }, problem.message)); }
  }) }, "Draw there");
  const look = h("button", { type: "button", id: "comfy", onclick: doing(async () => {
    try {
      const told = await get(`runs/${part(name)}/comfyui`);
      checkpoints.replaceChildren(...told.checkpoints.map(each => h("option", { value: each }, each)));
      box.replaceChildren(told.ready ? h("p", { class: "good" }, "ComfyUI has the files.") : h("p", { class: "look" }, "ComfyUI does not have the files yet: copy them into its folder, then look again."),
        h("label", { for: "checkpoint" }, "Checkpoint, the base model that it was trained on"), checkpoints, draw);
    } catch (problem) { box.replaceChildren(h("p", { class: "bad" }, problem.message)); }
  }) }, `Look for ComfyUI at ${address}`);
  return h("div", { class: "card stack" }, h("h2", {}, "Test in ComfyUI"), h("p", {}, "A running ComfyUI on this machine draws one picture with the files; it is shown beside the one from here."), h("div", {}, look), box);
}

export async function show(place, { name }) {
  const told = await get(`runs/${part(name)}/get`);
  place.replaceChildren(tabs(name, "/get"), h("h1", {}, `Get ${name}`), h("div", { class: "cards", id: "clients" }, told.clients.map(client => cardOf(name, client))), comfyTest(name, told.comfyui),
    h("div", { class: "card" }, h("h2", {}, "Before you hand it on"), h("p", {}, "Is this a person? Share it only with their consent; hosts of models ask for that too. The base model\u2019s licence goes for what was made from it. The photo is not in the files; a small preview picture is, and the settings that they were made with.")));
}
