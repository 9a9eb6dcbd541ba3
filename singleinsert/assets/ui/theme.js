"use strict";
// before the first paint, so that a dark page does not flash
try {
  document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";
} catch { /* a browser that keeps nothing */ }
