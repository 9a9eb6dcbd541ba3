// A run: where it stands, its curve with the samples on it, and what it can be asked.
import { ask, copier, doing, duration, every, get, go, h, part, percent, pill, say, size } from "../base.js";
import { chart, History, legend, strip } from "../curve.js";
import { tabs } from "../tabs.js";
import { describeState } from "./concepts.js";

const ASKED = { stop: "it stops after this step", finish: "it ends after this step, with its result", sample: "pictures come after this step" };
const LIVES = ["running", "loading", "queued"];

export async function show(place, { name }, signal) {
  const history = new History(), at = `runs/${part(name)}`;
  const head = h("div", { class: "row" }), bar = h("progress", { max: 1, value: 0, "aria-label": "steps done" }), told = h("p", { id: "told", role: "status" });
  const reason = h("div", { id: "reason" }), buttons = h("div", { class: "row", id: "buttons" }), curve = h("div", { id: "curve" }), key = h("div"), samples = h("div", { id: "samples" });
  const sheet = h("div", { class: "card", id: "sheet", hidden: true });
  const log = h("pre", { id: "log" }), facts = h("small", {});
  let next = 0, drawn = "", shown = "";
  const post = (path, body = {}) => ask("POST", `${at}/${path}`, body);
  const button = (id, text, work, kind = "") => h("button", { type: "button", id, class: kind, onclick: doing(work) }, text);
  const request = (kind, text, style) => button(kind, text, async () => { await post(`ask/${kind}`); say(ASKED[kind]); }, style);
  const mend = fix => button(`fix-${fix.id}`, fix.label, async () => {
    if (fix.does === "again") await post("resume");
    else if (fix.does === "new") go("/new");
    else if (fix.does === "draft") go(`/new/${(await post("again", { draft: true })).draft}/${fix.screen}`);
    else go(`/runs/${part((await post("again", { fix: fix.id })).name)}`);
  }, fix === shownFixes[0] ? "primary" : "");
  let shownFixes = [];
  const remove = () => button("delete", "Delete", async () => {
    if (!confirm(`Delete ${name} with its photo and everything it has made?`)) return;
    await ask("DELETE", at);
    go("/");
  }, "quiet danger");
  const again = (id, text, body) => button(id, text, async () => {
    const found = await post("again", body);
    go(found.draft ? `/new/${found.draft}/train` : `/runs/${part(found.name)}`);
  });
  const longer = run => again("longer", !run.state_bytes ? "Train it anew with 50 steps more" : run.ended_early ? "Go on to its end" : "Go on for 50 steps more", { longer: true });
  const forget = run => button("forget", `Drop its state (${size(run.state_bytes)})`, async () => {
    if (!confirm("Drop what it can go on from? The concept and its files stay.")) return;
    await ask("DELETE", `${at}/state`);
    await round();
  }, "quiet");

  const buttonsFor = run => {
    shownFixes = run.fixes;
    if (run.state === "running") return [request("sample", "Draw now"), request("finish", "Stop and keep what it has learnt"), request("stop", "Stop")];
    if (run.state === "done") {
      return [h("a", { class: "button primary", id: "to-try", href: `/runs/${part(name)}/try` }, "Try it"), h("a", { class: "button", id: "to-get", href: `/runs/${part(name)}/get` }, "Get the files"),
        run.own ? longer(run) : null, run.own ? again("change", "Change and train again", { draft: true }) : null, run.state_bytes ? forget(run) : null, remove()];
    }
    if (run.state === "failed" || run.state === "stopped") return [...run.fixes.map(mend), remove()];
    return [remove()];
  };
  const update = run => {
    const text = JSON.stringify([run.state, run.reason, run.fixes, run.own, run.state_bytes]);
    if (text !== shown) {
      shown = text;
      buttons.replaceChildren(...buttonsFor(run).filter(Boolean));
      reason.replaceChildren(...(run.reason ? [h("p", { class: run.state === "failed" ? "bad" : "look" }, run.reason)] : []));
      if (run.state === "failed") reason.append(h("div", {}, copier(() => report(run), "Copy a report")));
    }
    if (run.sheet && sheet.hidden) {
      const picture = `/api/${at}/file/${part(run.sheet)}`, what = "source and mask, and what each stage draws" + (run.things.length ? "; where each thing is looked at" : "");
      sheet.replaceChildren(h("h2", {}, "Sheet"), h("p", { class: "soft" }, `All of it in one picture: ${what}.`),
        h("a", { href: picture, target: "_blank", rel: "noopener" }, h("img", { src: picture, alt: `sheet of ${name}: ${what}` })));
      sheet.hidden = false;
    }
    const stands = describeState(run);
    if (head.dataset.stands !== stands) head.replaceChildren(pill(run.state, stands), facts);
    head.dataset.stands = stands;
    facts.textContent = [run.class_word, run.base, run.mask_share ? `mask ${percent(run.mask_share)}` : ""].filter(Boolean).join(" \u00b7 ");
    bar.max = run.steps || 1;
    bar.value = run.state === "done" ? bar.max : run.done_steps;
    bar.hidden = !LIVES.includes(run.state) && run.state !== "done";
    const parts = [];
    if (run.state === "loading") parts.push(run.loading ? `loading ${run.loading}: the first time takes longest` : "a worker takes it: loading the base model");
    else if (run.state === "queued") parts.push(run.place ? `waits: ${run.place - 1} before it` : "waits");
    else if (run.stage) parts.push(`${run.stage === "stage1" ? "stage I" : "stage II"}, step ${run.step} of ${run.stages[run.stage]}`);
    if (run.state === "running" && run.seconds_left) parts.push(`about ${duration(run.seconds_left)} left`);
    if (run.state === "done" && run.seconds) parts.push(`took ${duration(run.seconds)}`);
    for (const each of run.asked) parts.push(ASKED[each]);
    told.textContent = parts.join(" \u00b7 ");
  };
  const report = run => [`${name}: ${run.state}: ${run.reason}`, ...log.textContent.split("\n").slice(-30)].join("\n");
  const redraw = run => {
    const mark = `${history.rows.length} ${history.samples.map(each => each.step + each.stage).join()} ${history.rows.at(-1)?.at}`;
    if (mark === drawn) return;
    drawn = mark;
    curve.replaceChildren(chart(name, history));
    key.replaceChildren(legend(history));
    samples.replaceChildren(strip(name, history, run.source ? `/api/${at}/source` : ""));
  };
  const round = async () => {
    const run = await get(`${at}?after=${next}`);
    if (signal.aborted) return;
    if (run.after < next) history.clear();
    next = run.next;
    history.take(run.events);
    update(run);
    redraw(run);
    for (const each of [loss, drawings]) each.hidden = !LIVES.includes(run.state) && !history.rows.length && !history.samples.length;
    if (details.open || run.state === "failed") log.textContent = (await get(`${at}/log`)).lines.join("\n");
  };
  const loss = h("div", { class: "card" }, h("h2", {}, "Loss"), curve, key);
  const drawings = h("div", { class: "card" }, h("h2", {}, "Samples"), h("p", { class: "soft" }, "The same seed in each row: what changes was learnt."), samples);
  const details = h("details", { class: "card", ontoggle: () => { if (details.open) round().catch(problem => say(problem.message)); } }, h("summary", {}, "What it says"), log);
  await round();
  place.replaceChildren(tabs(name, ""), h("h1", {}, name), h("div", { class: "card stack" }, head, bar, told, reason, buttons),
    loss, drawings, sheet, details);
  every(1000, signal, round, problem => {
    if (problem.status === 404) place.replaceChildren(h("h1", {}, name), h("p", {}, problem.message), h("a", { href: "/" }, "To the concepts"));
  });
}
