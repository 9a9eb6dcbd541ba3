// A canvas over a photo on which a mask is painted: brush, eraser, box, clicks, undo; by mouse, finger and keyboard.
import { choice, h } from "./base.js";

const LARGEST = 1024, DEEPEST = 30;
const TINT = [255, 72, 66];
const TOOLS = [["brush", "Brush (B)"], ["eraser", "Eraser (E)"], ["box", "Box (X)"], ["on", "Click on it (C)"], ["off", "Click beside it (V)"]];

/**
 * facts: photo and mask (addresses; mask may be ""), width, height (the photo's), pointing (are box and clicks there?).
 * Calls changed(share, pixels) while painting, kept(blob) after a stroke, pointed({box, points}) for box and clicks.
 */
export class Painter {
  constructor(facts, calls) {
    this.facts = facts;
    this.calls = calls;
    const scale = Math.min(1, LARGEST / Math.max(facts.width, facts.height));
    this.width = Math.max(1, Math.round(facts.width * scale));
    this.height = Math.max(1, Math.round(facts.height * scale));
    this.scale = facts.width / this.width;
    this.mask = h("canvas", { class: "mask", width: this.width, height: this.height });
    this.over = h("canvas", { id: "canvas", width: this.width, height: this.height, tabindex: "0", role: "application",
      "aria-label": "the mask: paint with the pointer; arrow keys move a spot, the space bar paints" });
    this.ink = this.mask.getContext("2d", { willReadFrequently: true });
    this.marks = this.over.getContext("2d");
    this.tool = "brush";
    this.size = Math.max(4, Math.round(Math.min(this.width, this.height) / 12));
    this.undone = [];
    this.points = [];
    this.square = null;
    this.spot = { x: this.width / 2, y: this.height / 2 };
    this.element = this.build();
  }

  build() {
    const photo = h("img", { src: this.facts.photo, alt: "the photo", class: this.facts.width < 300 ? "pixel" : "", draggable: "false" });
    const tools = this.facts.pointing ? TOOLS : TOOLS.slice(0, 2);
    this.tools = choice("tool", tools, this.tool, tool => { this.tool = tool; });
    this.sizer = h("input", { type: "range", id: "size", min: 1, max: Math.round(Math.min(this.width, this.height) / 2), value: this.size,
      oninput: () => { this.size = Number(this.sizer.value); this.draw(); } });
    const undo = h("button", { type: "button", id: "undo", onclick: () => this.undo() }, "Undo (Ctrl+Z)");
    const clear = h("button", { type: "button", id: "clear", onclick: () => { this.remember(); this.ink.clearRect(0, 0, this.width, this.height); this.points = []; this.finish(); } }, "Clear");
    this.over.addEventListener("pointerdown", event => this.down(event));
    this.over.addEventListener("pointermove", event => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.over.addEventListener(end, event => this.up(event));
    this.over.addEventListener("keydown", event => this.key(event));
    return h("div", { class: "stack" }, h("div", { class: "row" }, this.tools, h("label", { class: "inline" }, "Size", this.sizer), undo, clear),
      h("div", { class: "canvas" }, photo, this.mask, this.over));
  }

  /** Show a mask: white where the subject is. */
  async show(address) {
    this.ink.clearRect(0, 0, this.width, this.height);
    if (address) {
      const image = await createImageBitmap(await (await fetch(address)).blob());
      const work = h("canvas", { width: this.width, height: this.height }).getContext("2d");
      work.drawImage(image, 0, 0, this.width, this.height);
      const pixels = work.getImageData(0, 0, this.width, this.height);
      for (let i = 0; i < pixels.data.length; i += 4) {
        const value = pixels.data[i];
        pixels.data.set([...TINT, value], i);
      }
      this.ink.putImageData(pixels, 0, 0);
    }
    this.tell();
    this.draw();
  }

  place(event) {
    const box = this.over.getBoundingClientRect();
    return { x: (event.clientX - box.left) * this.width / box.width, y: (event.clientY - box.top) * this.height / box.height };
  }

  down(event) {
    if (event.button) return;
    event.preventDefault();
    this.over.focus({ preventScroll: true });
    this.over.setPointerCapture(event.pointerId);
    this.from = this.last = this.spot = this.place(event);
    if (this.tool === "on" || this.tool === "off") return;
    if (this.tool !== "box") { this.remember(); this.stroke(this.last, this.last); }
  }

  move(event) {
    this.spot = this.place(event);
    if (this.from && this.tool !== "box" && this.tool !== "on" && this.tool !== "off") {
      for (const each of event.getCoalescedEvents?.() || [event]) {
        const next = this.place(each);
        this.stroke(this.last, next);
        this.last = next;
      }
    }
    this.draw();
  }

  up(event) {
    if (!this.from) return;
    const from = this.from, to = this.place(event);
    this.from = null;
    if (this.tool === "box") {
      const box = [Math.min(from.x, to.x), Math.min(from.y, to.y), Math.max(from.x, to.x), Math.max(from.y, to.y)].map(v => Math.round(v * this.scale));
      if (box[2] - box[0] > 3 && box[3] - box[1] > 3) this.calls.pointed({ box });
    } else if (this.tool === "on" || this.tool === "off") {
      this.points.push([Math.round(to.x * this.scale), Math.round(to.y * this.scale), this.tool === "on" ? 1 : 0]);
      this.calls.pointed({ points: this.points });
    } else this.finish();
    this.draw();
  }

  stroke(a, b) {
    const ink = this.ink;
    ink.save();
    ink.globalCompositeOperation = this.tool === "eraser" ? "destination-out" : "source-over";
    ink.strokeStyle = `rgb(${TINT})`;
    ink.lineCap = ink.lineJoin = "round";
    ink.lineWidth = this.size;
    ink.beginPath();
    ink.moveTo(a.x, a.y);
    ink.lineTo(b.x + 0.01, b.y);
    ink.stroke();
    ink.restore();
    this.tell();
  }

  remember() {
    this.undone.push(this.ink.getImageData(0, 0, this.width, this.height));
    if (this.undone.length > DEEPEST) this.undone.shift();
  }

  undo() {
    const before = this.undone.pop();
    if (!before) return;
    this.ink.putImageData(before, 0, 0);
    this.finish();
  }

  async finish() {
    this.tell();
    this.calls.kept(await this.blob());
  }

  tell() {
    const data = this.ink.getImageData(0, 0, this.width, this.height).data;
    let sum = 0, solid = 0;
    for (let i = 3; i < data.length; i += 4) { sum += data[i]; if (data[i] >= 128) solid += 1; }
    this.calls.changed(sum / 255 / (this.width * this.height), Math.round(solid * this.scale * this.scale));
  }

  /** The mask as a PNG: its alpha channel. */
  blob() { return new Promise(done => this.mask.toBlob(done, "image/png")); }

  key(event) {
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(this.size / 2));
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const keys = { b: "brush", e: "eraser", x: "box", c: "on", v: "off" };
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else if (moves[event.key]) {
      this.spot = { x: Math.min(this.width, Math.max(0, this.spot.x + moves[event.key][0])), y: Math.min(this.height, Math.max(0, this.spot.y + moves[event.key][1])) };
    } else if (event.key === " " && (this.tool === "brush" || this.tool === "eraser")) { this.remember(); this.stroke(this.spot, this.spot); this.finish(); }
    else if (event.key === "[" || event.key === "]") { this.size = Math.max(1, this.size + (event.key === "]" ? 2 : -2)); this.sizer.value = this.size; }
    else if (keys[event.key] && !event.ctrlKey && !event.metaKey) {
      const button = this.tools.querySelector(`[data-value="${keys[event.key]}"]`);
      if (!button) return;
      button.click();
      this.over.focus();
    } else return;
    event.preventDefault();
    this.draw();
  }

  /** The training square, the spot, the box that is drawn, and the clicks. */
  draw() {
    const marks = this.marks, line = Math.max(1, this.width / 300);
    marks.clearRect(0, 0, this.width, this.height);
    marks.lineWidth = line;
    if (this.square) {
      const [left, top, right, bottom] = this.square.map(v => v / this.scale);
      marks.strokeStyle = "#fff";
      marks.setLineDash([6 * line, 4 * line]);
      marks.strokeRect(left + line, top + line, right - left - 2 * line, bottom - top - 2 * line);
      marks.setLineDash([]);
    }
    for (const [x, y, on] of this.points) {
      marks.fillStyle = on ? "#3dff6e" : "#ff5252";
      marks.beginPath();
      marks.arc(x / this.scale, y / this.scale, 4 * line, 0, 7);
      marks.fill();
    }
    marks.strokeStyle = "#ffe14d";
    if (this.from && this.tool === "box") marks.strokeRect(this.from.x, this.from.y, this.spot.x - this.from.x, this.spot.y - this.from.y);
    else if (this.tool === "brush" || this.tool === "eraser") {
      marks.beginPath();
      marks.arc(this.spot.x, this.spot.y, this.size / 2, 0, 7);
      marks.stroke();
    }
  }
}
