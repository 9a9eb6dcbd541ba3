"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLUMNS_OF_STRIP = 10;
const LABEL = 150, GAP = 6, LEAST = 120, MOST = 224;  // pixels of the grid of samples
const byId = (id) => document.getElementById(id);

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// a picture is a part of its method's sheet: the sheet is scaled so that one tile is `side` wide
function place(node, [concept, method, , , index], side) {
  const rows = Math.ceil(data.counts[`${concept}-${method}`] / COLUMNS_OF_STRIP);
  node.classList.add("tile", `s${concept}-${method}`);
  node.style.width = node.style.height = `${side}px`;
  node.style.backgroundSize = `${COLUMNS_OF_STRIP * side}px ${rows * side}px`;
  node.style.backgroundPosition = `${-(index % COLUMNS_OF_STRIP) * side}px ${-Math.floor(index / COLUMNS_OF_STRIP) * side}px`;
  return node;
}

function show(sample) {
  const [c, m, p, seed, , values, targets] = sample;
  const concept = data.concepts[c], prompt = concept.prompts[p];
  const rows = data.columns.map((name, i) =>
    make("tr", {}, make("th", { textContent: name }), make("td", { textContent: values[i] === null ? "" : values[i].toFixed(3) })));
  const verdicts = targets.map((found, i) =>
    make("li", { className: found ? "yes" : "no", textContent: `${prompt.questions[i]} ${found ? "yes" : "no"}` }));
  const picture = make("figure", {}, place(make("div", {}), sample, 256), make("figcaption", { textContent: data.methods[m] }));
  const source = make("img", { src: concept.picture, alt: "training picture", width: 256, height: 256 });
  const training = make("figure", {}, source, make("figcaption", { textContent: "training picture" }));
  byId("shown").replaceChildren(
    make("h3", { textContent: prompt.text }),
    make("p", { textContent: `${concept.name} (${concept.class}), ${data.methods[m]}, seed ${seed}` }),
    make("div", { className: "pair" }, picture, training, make("table", {}, ...rows)),
    make("ul", {}, ...verdicts));
  byId("detail").showModal();
}

function fillSeeds(concept) {
  const seeds = [...new Set(data.samples.filter((s) => s[0] === concept).map((s) => s[3]))].sort((a, b) => a - b);
  const before = byId("seed").value;
  byId("seed").replaceChildren(...seeds.map((seed) => make("option", { value: seed, textContent: `seed ${seed}` })));
  if (seeds.includes(Number(before)) && before !== "") byId("seed").value = before;
}

function draw() {
  const c = Number(byId("concept").value), seed = Number(byId("seed").value), concept = data.concepts[c], grid = byId("grid");
  // as large as all prompts side by side leave room for; of many prompts the grid scrolls
  const room = (grid.parentElement.clientWidth - LABEL) / concept.prompts.length - GAP, side = Math.max(LEAST, Math.min(MOST, Math.floor(room)));
  grid.style.setProperty("--tile", `${side}px`);
  grid.style.gridTemplateColumns = `${LABEL}px repeat(${concept.prompts.length}, auto)`;
  const cells = [make("img", { src: concept.picture, alt: "training picture" })];
  for (const prompt of concept.prompts) cells.push(make("div", { className: "prompt", textContent: prompt.text }));
  data.methods.forEach((label, m) => {
    cells.push(make("div", { className: "label", textContent: label }));
    concept.prompts.forEach((prompt, p) => {
      const sample = data.samples.find((s) => s[0] === c && s[1] === m && s[2] === p && s[3] === seed);
      if (!sample) return cells.push(make("div", {}));
      const tile = place(make("button", { title: prompt.text, onclick: () => show(sample) }), sample, side);
      tile.setAttribute("aria-label", `${label}: ${prompt.text}`);
      cells.push(tile);
    });
  });
  grid.replaceChildren(...cells);
}

byId("concept").addEventListener("change", () => { fillSeeds(Number(byId("concept").value)); draw(); });
byId("seed").addEventListener("change", draw);
if (data.concepts.length) { fillSeeds(0); draw(); }
