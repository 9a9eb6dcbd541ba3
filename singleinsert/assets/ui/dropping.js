// A place for photos: dropped, pasted, or chosen from the device or its camera.
import { ask, doing, go, h, say } from "./base.js";

export async function startExample() {
  go(`/new/${(await ask("POST", "drafts", {})).id}/photo`);
}

export async function takePhoto(file, then = draft => go(`/new/${draft.id}/photo`)) {
  if (!file) throw new Error("that was no picture");
  if (file.size > 60 * 2 ** 20) throw new Error("a photo of 60 MB at the most");
  then(await ask("POST", "drafts", new Blob([file])));
}

export function dropPlace(text, signal, then) {
  const input = h("input", { type: "file", accept: "image/*", id: "photo-file" });
  const box = h("div", { class: "drop", id: "drop" }, h("p", {}, h("strong", {}, text)),
    h("p", { class: "soft" }, "or paste one (Ctrl+V), or choose a file. It stays on the machine that trains."),
    h("label", { for: "photo-file", class: "sr" }, "Choose a photo"), input);
  const take = doing(async () => {
    box.setAttribute("aria-busy", "true");
    try { await takePhoto(chosen, then); } finally { box.removeAttribute("aria-busy"); input.value = ""; }
  });
  let chosen = null;
  const accept = file => { chosen = file; return take(); };
  input.onchange = () => accept(input.files[0]);
  const over = on => event => { event.preventDefault(); box.classList.toggle("over", on); };
  addEventListener("dragover", over(true), { signal });
  addEventListener("dragleave", over(false), { signal });
  addEventListener("drop", event => {
    over(false)(event);
    const file = [...event.dataTransfer.files][0];
    if (file) accept(file);
    else say("that was no picture file: save it first");
  }, { signal });
  addEventListener("paste", event => {
    const item = [...event.clipboardData.items].find(each => each.type.startsWith("image/"));
    if (item) accept(item.getAsFile());
  }, { signal });
  return box;
}
