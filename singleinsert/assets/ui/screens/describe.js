// The description: what else is in the photo, phrase by phrase, with what the checks say of each (SID).
import { ask, doing, h, say, settled } from "../base.js";
import { load, onward, steps } from "../draft.js";

export async function show(place, { id }, signal) {
  const draft = await load(id), word = draft.subjects[0].class_word || "subject";
  if (draft.is_scene) {
    place.replaceChildren(steps(id, "describe"), h("h1", {}, "Description"), h("div", { class: "card" },
      h("p", {}, "Several things of one photo are told apart by their masks: a description has no place here."), onward(id, "train", "Next")));
    return;
  }
  const text = h("textarea", { id: "caption", spellcheck: "true", "aria-describedby": "said" }, draft.caption);
  const chips = h("ul", { class: "chips", "aria-label": "phrases and what the checks say of them" }), said = h("p", { id: "said", role: "status", class: "soft" });
  const warnings = h("ul", { class: "tight look" });
  let asked = 0;
  const check = async () => {
    const mine = ++asked, value = text.value.trim();
    chips.replaceChildren();
    warnings.replaceChildren();
    if (!value) {
      said.textContent = (await ask("PUT", `drafts/${id}/caption`, { text: "" })).said;
      return;
    }
    try {
      const found = await ask("POST", `drafts/${id}/caption`, { text: value });
      if (mine !== asked || signal.aborted) return;
      chips.replaceChildren(...found.phrases.map(phrase => h("li", { class: phrase.status },
        h("span", {}, phrase.text, h("small", { class: "soft" }, `${phrase.status === "keep" ? "keep" : "look"}: ${phrase.why}`)),
        h("button", { type: "button", "aria-label": `leave out: ${phrase.text}`, onclick: () => { text.value = phrase.without; check(); } }, "\u00d7"))));
      warnings.replaceChildren(...found.warnings.map(line => h("li", {}, "It " + line)));
      const kept = await ask("PUT", `drafts/${id}/caption`, { text: value });
      if (mine === asked) said.textContent = `${kept.said}; ${found.tokens} of ${found.limit} tokens`;
    } catch (problem) {
      if (mine === asked) said.textContent = problem.message;
    }
  };
  text.oninput = settled(400, check);
  const start = doing(async () => {
    if (!text.value.trim()) text.value = `a photo of a {concept}, `;
    text.focus();
    say(`{concept} stands for the ${word}`);
  });
  place.replaceChildren(steps(id, "describe"), h("h1", {}, "Description"), h("div", { class: "two" },
    h("div", { class: "card" }, h("label", { for: "caption" }, `Everything but the ${word}`), text, said, chips, warnings,
      h("div", { class: "row" }, h("button", { type: "button", onclick: start }, "Begin a sentence"), h("span", { class: "grow" }), onward(id, "train", "Next"))),
    h("div", { class: "card" }, h("h2", {}, "May be left empty"),
      h("p", {}, `It helps where something sticks to the ${word}: a hat it wears, the beach behind it, a pose. Say these things, and they stay out of the concept. Of the ${word} itself say nothing.`),
      h("p", {}, h("code", {}, "{concept}"), ` stands for the ${word}:`),
      h("pre", {}, "a photo of a {concept} wearing a red hat, on a beach, in the evening light"),
      h("img", { src: `/api/drafts/${id}/photo.png`, alt: "the photo" }))));
  if (draft.caption) await check();
}
