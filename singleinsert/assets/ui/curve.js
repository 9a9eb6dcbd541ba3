// A run's events become rows of losses and samples, a chart, and a table of pictures.
import { h, part, s } from "./base.js";

const STAGES = { stage1: "stage I", stage2: "stage II", before: "before" };
const WIDTH = 900, HEIGHT = 260, LEFT = 46, BOTTOM = 22, TOP = 10, THUMB = 34;
const DECADES = 4;  // of the loss, at the most
const LINE = 16;  // height of a label
const LETTER = 6.5;  // width of one in a label, at least

/** What a run's events say so far; events come in portions, and a run that went back makes its steps anew. */
export class History {
  constructor() { this.clear(); }

  clear() { this.stages = {}; this.rows = []; this.samples = []; }

  take(events) {
    for (const event of events) {
      if (event.event === "begun") this.stages = event.stages;
      else if (event.event === "step") {
        const at = this.at(event.stage, event.step), index = this.rows.findIndex(row => row.at >= at);
        if (index >= 0) this.rows.length = index;
        this.rows.push({ ...event, at });
      } else if (event.event === "samples") {
        this.samples = this.samples.filter(each => each.stage !== event.stage || each.step !== event.step || each.files.length > event.files.length);
        if (!this.samples.some(each => each.stage === event.stage && each.step === event.step)) this.samples.push(event);
      }
    }
    this.samples.sort((a, b) => this.at(a.stage, a.step) - this.at(b.stage, b.step));
  }

  at(stage, step) {
    let before = 0;
    for (const [name, steps] of Object.entries(this.stages)) {
      if (name === stage) return before + step;
      before += steps;
    }
    return 0;
  }

  get total() { return Math.max(1, Object.values(this.stages).reduce((a, b) => a + b, 0), ...this.rows.map(row => row.at)); }

  get terms() {
    const names = new Set(this.rows.flatMap(row => Object.keys(row)));
    return ["loss", "foreground", "background", "semantic", "attention"].filter(name => names.has(name));
  }
}

const file = (run, name) => `/api/runs/${part(run)}/file/${part(name)}`;
export const moment = sample => sample.stage === "before" ? "before" : `${STAGES[sample.stage] || sample.stage}, step ${sample.step}`;

const tick = value => value < 0.001 ? value.toExponential(1).replace(".0", "") : String(Number(value.toPrecision(2)));

/** Loss terms over all steps, on a logarithmic scale, with the samples at their steps. */
export function chart(run, history, others = []) {
  const all = [history, ...others], total = Math.max(...all.map(each => each.total));
  const terms = others.length ? ["loss"] : history.terms;
  const values = all.flatMap(each => each.rows.flatMap(row => terms.map(term => row[term]))).filter(value => value > 0);
  // a term that begins at nothing would press the others against the upper edge: it is cut off at the lower one
  const high = Math.log10(Math.max(...values)), low = Math.max(Math.log10(Math.min(...values)), high - DECADES), span = Math.max(high - low, 0.1);
  const x = at => LEFT + (WIDTH - LEFT - 8) * at / total, y = value => TOP + (HEIGHT - TOP - BOTTOM) * Math.min(1, (high - Math.log10(value)) / span);
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `losses of ${history.rows.length} steps` });
  if (!values.length) return h("p", { class: "soft" }, "The curve begins with the first step.");
  for (let power = Math.ceil(low); power <= high; power += 1) {
    const at = y(10 ** power), isNear = [low, high].some(each => Math.abs(y(10 ** each) - at) < LINE);
    svg.append(s("line", { x1: LEFT, x2: WIDTH - 8, y1: at, y2: at }), ...(isNear ? [] : [s("text", { x: 2, y: at + 4 }, tick(10 ** power))]));
  }
  for (const value of [low, high]) svg.append(s("text", { x: 2, y: y(10 ** value) + 4 }, tick(10 ** value)));
  let edge = 0;
  const longest = all.find(each => each.total === total);
  for (const [name, steps] of Object.entries(longest.stages)) {
    const title = STAGES[name] || name, room = x(steps) - LEFT;
    const label = [`${title}, ${steps} steps`, title].find(text => text.length * LETTER < room) || "";
    svg.append(s("line", { x1: x(edge), x2: x(edge), y1: TOP, y2: HEIGHT - BOTTOM }), s("text", { x: x(edge) + 4, y: HEIGHT - 6 }, label));
    edge += steps;
  }
  all.forEach((each, number) => terms.forEach((term, index) => {
    for (const stage of Object.keys(each.stages)) {
      const points = each.rows.filter(row => row.stage === stage && row[term] > 0).map(row => `${x(row.at).toFixed(1)},${y(row[term]).toFixed(1)}`);
      const colour = others.length ? number + 1 : index, isUnder = number < all.length - 1;  // wider: seen where both are the same
      if (points.length > 1) svg.append(s("polyline", { points: points.join(" "), class: `c${colour}${isUnder ? " under" : ""}` }));
      else if (points.length) svg.append(s("circle", { cx: points[0].split(",")[0], cy: points[0].split(",")[1], r: 3, class: `c${colour}` }));
    }
  }));
  if (run) {
    for (const sample of history.samples.filter(each => each.stage !== "before")) {
      const at = x(history.at(sample.stage, sample.step));
      svg.append(s("line", { x1: at, x2: at, y1: TOP + THUMB, y2: HEIGHT - BOTTOM }),
        s("image", { href: file(run, sample.files[0]), x: Math.min(WIDTH - THUMB, Math.max(LEFT, at - THUMB / 2)), y: TOP, width: THUMB, height: THUMB }, s("title", {}, moment(sample))));
    }
  }
  return h("div", { class: "scroll", tabindex: "0", "aria-label": "the curve" }, svg);
}

export function legend(history) {
  return h("p", { class: "row" }, history.terms.map((term, index) => h("small", { class: `k${index}` }, `\u25cf ${term}`)));
}

/** Rows are prompts, columns the moments: the same seed in a row, so that what changes was learnt. */
export function strip(run, history, source) {
  const count = Math.max(0, ...history.samples.map(sample => sample.files.length));
  if (!count) return h("p", { class: "soft" }, "The first pictures come after a third of the first stage, or by \u201cDraw now\u201d.");
  const prompts = history.samples.find(sample => sample.files.length === count && sample.stage !== "before")?.prompts || history.samples[0].prompts;
  const head = h("tr", {}, h("th", {}, source ? h("img", { src: source, alt: "the photo" }) : ""), history.samples.map(sample => h("th", { scope: "col" }, moment(sample))));
  const rows = [...Array(count).keys()].map(index => h("tr", {}, h("th", { scope: "row" }, (prompts[index] || "").replace(/<(\w+)>/g, `${run}$1`).replaceAll("*", run)),
    history.samples.map(sample => h("td", {}, sample.files[index] ? h("a", { href: file(run, sample.files[index]), target: "_blank", rel: "noopener" },
      h("img", { src: file(run, sample.files[index]), alt: `${sample.prompts[index]}, ${moment(sample)}`, title: `${sample.prompts[index]}, seed ${sample.seeds[index] ?? 0}`, loading: "lazy" })) : h("div", { class: "empty" })))));
  return h("div", { class: "strip", tabindex: "0", "aria-label": "samples" }, h("table", {}, h("tbody", {}, head, rows)));
}
