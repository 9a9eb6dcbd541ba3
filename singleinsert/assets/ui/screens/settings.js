// What the program was told; changed in its file or on its command line, not from a browser.
import { get, h } from "../base.js";

const list = (items, empty) => items.length ? h("ul", { class: "tight" }, items.map(item => h("li", {}, item))) : h("p", { class: "soft" }, empty);

export async function show(place) {
  const told = await get("settings");
  place.replaceChildren(h("h1", {}, "Settings"), h("div", { class: "card" }, h("h2", {}, "This machine"), h("p", {}, told.device), h("p", {}, told.offline ? "Offline (HF_HUB_OFFLINE): base models must be on this machine." : "Base models that are not here are fetched from the hub when a training needs them.")),
    h("div", { class: "card" }, h("h2", {}, "Base models"), list(told.bases.map(base => `${base.title}: ${base.state}`), "none"), h("h3", {}, "Folders that are looked into"), list(told.models, "none: start with --models FOLDER")),
    h("div", { class: "card" }, h("h2", {}, "Clients"), list(told.clients.map(client => `${client.folder}: ${client.kind === "comfyui" ? "ComfyUI" : client.kind === "a1111" ? "A1111 or Forge" : "not known"}`), "none: start with --client FOLDER, and files can be copied there"), h("p", {}, "ComfyUI to test in: ", h("code", {}, told.comfyui))),
    h("div", { class: "card" }, h("h2", {}, "Where this is written"), h("p", {}, "Paths never come from the browser: whoever reaches this page must not reach your files by it. Write them into ", h("code", {}, told.file), " and start the program again:"),
      h("pre", {}, 'models = ["/data/models/Stable-diffusion"]\nclients = ["/opt/stable-diffusion-webui", "/opt/ComfyUI"]\ncomfyui = "http://127.0.0.1:8188"'), h("p", { class: "soft" }, `Everything is kept in ${told.folder}. SingleInsert ${told.version}`)));
}
