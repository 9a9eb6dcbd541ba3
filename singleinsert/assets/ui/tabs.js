// The screens of a run, and the way between them.
import { h, part } from "./base.js";

const TABS = [["", "Training"], ["/try", "Try it"], ["/check", "Check"], ["/edit", "Edit a photo"], ["/get", "Get it"]];

export function tabs(name, at) {
  return h("nav", { "aria-label": "This concept" }, h("ul", { class: "steps" }, TABS.map(([end, title]) =>
    h("li", {}, h("a", { href: `/runs/${part(name)}${end}`, "aria-current": end === at ? "page" : null }, title)))));
}
