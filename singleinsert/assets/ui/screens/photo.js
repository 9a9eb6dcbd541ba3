// The photo, what it shows, and the name: the first step.
import { ask, choice, doing, go, h, settled } from "../base.js";
import { caughtUp, keeper, load, onward, steps } from "../draft.js";
import { dropPlace, startExample } from "../dropping.js";

const WORDS = ["face", "hair", "clothes", "pet", "cat", "dog", "mug", "toy", "bag", "house"];

function begin(place, signal) {
  place.replaceChildren(h("h1", {}, "A new concept"), dropPlace("Drop one photo here", signal),
    h("div", { class: "card" }, h("h2", {}, "A good photo"), h("ul", { class: "tight" },
      h("li", {}, "The thing is sharp, well lit and large: a fifth of the picture or more."),
      h("li", {}, "Nothing covers it, and it is there once."),
      h("li", {}, "Of a person: you have their consent.")),
      h("div", { class: "row" }, h("button", { type: "button", id: "example", onclick: doing(startExample) }, "Try the bundled face"),
        h("button", { type: "button", onclick: doing(async () => {
          go(`/new/${(await ask("POST", "drafts", { scene: true })).id}/photo`);
        }) }, "Try two things of one picture"))));
}

function wordField(draft, number, changed) {
  const subject = draft.subjects[number], id = `word${number}`;
  const input = h("input", { id, class: "wide", list: "words", value: subject.class_word, autocomplete: "off", autocapitalize: "none",
    placeholder: "face, cat, mug ...", oninput: () => changed(number, { class_word: input.value }) });
  const chips = choice("usual words", WORDS.slice(0, 6).map(word => [word, word]), subject.class_word, word => {
    input.value = word;
    changed(number, { class_word: word });
  });
  input.addEventListener("input", () => chips.show(input.value));
  const name = draft.is_scene ? h("div", {}, h("label", { for: `handle${number}` }, "Called in prompts"),
    h("input", { id: `handle${number}`, value: subject.name, placeholder: subject.class_word || "cat",
      oninput: event => changed(number, { name: event.target.value }) })) : null;
  const remove = draft.subjects.length > 1 ? h("button", { type: "button", class: "quiet danger", onclick: doing(async () => {
    await caughtUp();
    await ask("POST", `drafts/${draft.id}/subjects/remove`, { number });
    dispatchEvent(new PopStateEvent("popstate"));
  }) }, "Leave it out") : null;
  return h("fieldset", {}, h("legend", {}, draft.is_scene ? `Thing ${number + 1}` : "What is it?"),
    h("label", { for: id, class: draft.is_scene ? "" : "sr" }, "Class word"), input, chips, name, remove);
}

function judged(box, told, use, together) {
  const parts = [];
  if (told.problem) parts.push(h("span", { class: "bad" }, told.problem));
  else if (told.note) parts.push(h("span", { class: "look" }, told.note + ": prompts could no longer say it"));
  else if (together) parts.push(h("span", { class: "good" }, "free. It goes before the name of each thing"));
  else parts.push(h("span", { class: "good" }, "free. You will type: "), h("code", {}, told.prompt));
  if (told.suggestion) parts.push(" ", h("button", { type: "button", onclick: () => use(told.suggestion) }, `take ${told.suggestion}`));
  box.replaceChildren(...parts);
}

export async function show(place, { id }, signal) {
  if (!id) return begin(place, signal);
  const draft = await load(id);
  const said = h("p", { id: "judged", role: "status" }), words = draft.subjects.map(({ class_word, name }) => ({ class_word, name }));
  const keepWords = keeper(id), keepName = keeper(id);
  const look = settled(200, async () => judged(said, await ask("POST", "name", { name: name.value, class_word: words[0].class_word }), use, draft.is_scene));
  const changed = (number, change) => { Object.assign(words[number], change); keepWords({ subjects: words }); look(); };
  const name = h("input", { id: "name", class: "wide", value: draft.name, autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    "aria-describedby": "judged", placeholder: "annaxy", oninput: () => { keepName({ name: name.value }); look(); } });
  const use = word => { name.value = word; name.dispatchEvent(new Event("input")); };
  const more = h("button", { type: "button", id: "more", onclick: doing(async () => {
    await caughtUp();  // an older list that comes later would take the new thing away again
    await ask("POST", `drafts/${id}/subjects/add`, {});
    dispatchEvent(new PopStateEvent("popstate"));
  }) }, "Learn one more thing of this photo");
  const background = h("label", { class: "inline" }, h("input", { type: "checkbox", id: "background", checked: draft.learn_background,
    onchange: async event => { await ask("PUT", `drafts/${id}`, { learn_background: event.target.checked }); } }), "learn the background as one more concept");
  place.replaceChildren(steps(id, "photo"), h("h1", {}, "Photo"), h("div", { class: "two" },
    h("div", { class: "card" }, h("img", { src: `/api/drafts/${id}/photo.png`, alt: "the photo", class: draft.width < 200 ? "pixel grow" : "" , width: Math.max(draft.width, 320) }),
      h("p", { class: "soft" }, `${draft.width} x ${draft.height} pixels`), draft.notes.map(note => h("p", { class: "soft" }, note))),
    h("div", { class: "card" }, draft.subjects.map((_, number) => wordField(draft, number, changed)),
      h("datalist", { id: "words" }, WORDS.map(word => h("option", { value: word }))),
      h("label", { for: "name" }, draft.is_scene ? "A name for all of them together" : "Its name, a word of its own"), name, said,
      h("div", { class: "row" }, h("span", { class: "grow" }), onward(id, "mask", "Mark it in the photo")),
      h("details", {}, h("summary", {}, "Several things of one photo"),
        h("p", { class: "soft" }, "Each gets a mask and a name, and prompts can put them together anew (Break-A-Scene)."),
        h("div", { class: "stack" }, more, background)))));
  judged(said, draft.judged, use, draft.is_scene);
}
