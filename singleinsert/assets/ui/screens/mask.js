// The mask: found at once, corrected by hand, with a verdict while one paints.
import { ask, choice, doing, h, percent, say, settled } from "../base.js";
import { load, onward, steps } from "../draft.js";
import { Painter } from "../painter.js";

export async function show(place, { id }, signal) {
  const draft = await load(id);
  let at = 0, version = 0;
  const verdict = h("p", { id: "verdict", role: "status" }), share = h("strong", { id: "share" }), notes = h("div");
  const candidates = h("div", { id: "candidates" }), overlaps = h("div");
  const live = (value, pixels) => {
    const band = draft.bands.find(each => value < each.below) || draft.bands.at(-1);
    share.textContent = percent(value);
    verdict.className = band.level;
    verdict.textContent = band.text.replace("{pixels}", pixels.toLocaleString("en"));
  };
  const told = facts => {
    draft.subjects[at] = { ...draft.subjects[at], ...facts };
    painter.square = facts.square || null;
    painter.draw();
    const source = !facts.mask || !facts.source ? [] : facts.certain ? [h("p", { class: "soft" }, `from ${facts.source}`)]
      : [h("p", { class: "look" }, `from ${facts.source}: it only tells colours apart, look closely at the edge`)];
    notes.replaceChildren(...source, ...(facts.notes || []).map(note => h("p", { class: "look" }, note)));
    if (facts.level === "bad" && facts.mask) { verdict.className = "bad"; verdict.textContent = facts.verdict; }
  };
  const keep = settled(150, async blob => {
    try { told(await ask("PUT", `drafts/${id}/mask/${at}`, blob)); } catch (problem) { say(problem.message); }
  });
  const pointed = async where => {
    verdict.textContent = "looking \u2026";
    verdict.className = "soft";
    try {
      const facts = await ask("POST", `drafts/${id}/find/${at}`, where);
      painter.remember();
      await painter.show(`/api/drafts/${id}/mask/${at}?v=${version++}`);
      told(facts);
      const several = facts.candidates.length > 1 && !where.box && !where.points;
      candidates.replaceChildren(...(several ? [h("p", {}, `${facts.candidates.length} were found:`), choice("which one",
        facts.candidates.map((each, i) => [String(i), `${each.text}, ${percent(each.share)}`]),
        String(facts.candidates.findIndex(each => each.taken)), number => pointed({ choice: Number(number) }))] : []));
    } catch (problem) {
      if (signal.aborted) return;
      verdict.className = "bad";
      verdict.textContent = problem.message;
    }
  };
  const painter = new Painter({ photo: `/api/drafts/${id}/photo.png`, width: draft.width, height: draft.height, pointing: true },
    { changed: live, kept: keep, pointed });
  const open = async number => {
    at = Number(number);
    painter.points = [];
    painter.undone = [];
    candidates.replaceChildren();
    const subject = draft.subjects[at];
    if (subject.mask) {
      await painter.show(`/api/drafts/${id}/mask/${at}?v=${version++}`);
      told(subject);
    } else {
      await painter.show("");
      if (subject.class_word) await pointed({});
      else { verdict.className = "look"; verdict.textContent = "say first what it is (step 1), or paint it"; }
    }
  };
  const which = draft.is_scene ? choice("which thing", draft.subjects.map((each, i) => [String(i), each.name || each.class_word || `thing ${i + 1}`]), "0", number => open(number)) : null;
  overlaps.replaceChildren(...draft.overlaps.map(line => h("p", { class: "look" }, line)));
  place.replaceChildren(steps(id, "mask"), h("h1", {}, "Mask"), which || "",
    h("div", { class: "two" }, painter.element, h("div", { class: "card" },
      h("p", {}, "Red is what will be learnt: ", share, " of the photo."), verdict, notes, candidates, overlaps,
      h("p", { class: "soft" }, "All of the subject and nothing else. The dashed square is what training sees; what is not red in it is held to what the base model draws by itself, and so stays out of the concept."),
      h("div", { class: "row" }, h("button", { type: "button", id: "find", onclick: doing(() => pointed({})) }, "Find it again"),
        h("span", { class: "grow" }), onward(id, "describe", "Next")))));
  await open(0);
  for (const [number, subject] of draft.subjects.entries()) {  // the other things of a scene, before one asks for them
    if (signal.aborted || number === at || subject.mask || !subject.class_word) continue;
    const facts = await ask("POST", `drafts/${id}/find/${number}`, {}).catch(() => null);  // said when it is its turn
    if (facts) draft.subjects[number] = { ...subject, ...facts };
  }
}
