// The queue: what waits, in which order, and who works.
import { ask, copier, doing, every, get, h, part, pill, say } from "../base.js";

export async function show(place, facts, signal) {
  const box = h("div", { class: "stack" });
  let before = "";
  const change = (action, body = {}) => doing(async () => draw(await ask("POST", `queue/${action}`, body)));
  const draw = told => {
    const text = JSON.stringify(told);
    if (text === before) return;
    before = text;
    const workers = told.workers.map(worker => h("li", {}, `${worker.host}, process ${worker.pid}`));
    const rows = told.jobs.map(job => h("tr", {}, h("td", {}, h("a", { href: `/runs/${part(job.name)}` }, job.name)), h("td", {}, h("div", { class: "row" }, pill(job.state), h("small", {}, job.attempt > 1 ? `try ${job.attempt}` : "", job.state === "running" && job.host ? ` on ${job.host}` : "")), job.reason ? h("p", { class: job.state === "failed" ? "bad" : "soft" }, job.reason) : ""),
      h("td", {}, h("div", { class: "row" }, job.state === "queued" && job.own_list ? h("button", { type: "button", onclick: change("first", { name: job.name }) }, "First") : "",
        job.state === "failed" || job.state === "stopped" ? h("button", { type: "button", onclick: doing(async () => { await ask("POST", `runs/${part(job.name)}/resume`, {}); draw(await get("queue")); }) }, "Again") : ""))));
    box.replaceChildren(
      h("div", { class: "card stack" }, h("div", { class: "row" }, h("h2", { class: "grow" }, told.paused ? "Paused" : told.jobs.some(job => job.state === "running") ? "Working" : told.workers.length ? "Ready: workers wait for jobs" : told.starting ? "A worker starts" : "Nobody works"),
        h("button", { type: "button", id: "pause", onclick: change(told.paused ? "go" : "pause") }, told.paused ? "Go on" : told.jobs.some(job => job.state === "running") ? "Pause after this job" : "Pause"),
        told.crashed ? h("button", { type: "button", class: "primary", onclick: change("worker") }, "Start a worker") : ""),
        told.crashed ? h("p", { class: "bad" }, `The last worker has left: ${told.crashed}`) : "", h("ul", { class: "tight" }, workers)),
      told.problems.length ? h("div", { class: "card" }, h("h2", {}, "Left out"), told.problems.map(line => h("p", { class: "bad" }, line))) : "",
      told.jobs.length ? h("div", { class: "card scroll" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["Concept", "State", ""].map(title => h("th", {}, title)))), h("tbody", {}, rows)))
        : h("div", { class: "card" }, h("h2", {}, "Nothing waits"), h("p", {}, "What you start on ", h("a", { href: "/new" }, "New"), " comes here. Many photos at once: drop them below, or let a list of jobs do it (docs/batch.md).")),
      h("div", { class: "card" }, h("h2", {}, "More workers"), h("p", {}, "Any machine that sees this folder may help; each takes the next job that nobody has:"), h("pre", {}, told.command), copier(told.command)));
  };
  const many = h("input", { type: "file", accept: "image/*", multiple: true, id: "many", onchange: doing(async () => {
    const files = [...many.files];
    for (const [number, file] of files.entries()) {
      say(`${number + 1} of ${files.length}`);
      await ask("POST", "drafts", new Blob([file]));
    }
    say(`${files.length} drafts made: give each its word and name`);
    many.value = "";
  }) });
  place.replaceChildren(h("h1", {}, "Queue"), box, h("div", { class: "card" }, h("label", { for: "many" }, "Drafts of several photos at once"), many, h("p", { class: "soft" }, "They appear on ", h("a", { href: "/" }, "Concepts"), ".")));
  await every(2000, signal, async () => draw(await get("queue")), problem => say(problem.message));
}
