// Window and level: which intensities are black and white.

import { element } from "./controls.js";

const TITLES = { source: "source", image: "translation" };
const STEPS = 400;

/** Two sliders, level and width, for each image. */
export function drawWindows(viewer) {
  const box = document.getElementById("windows");
  const { windows: initial } = viewer.model.description;
  const head = element("div", { className: "row" }, "", element("span", { textContent: "level" }), element("span", { textContent: "width" }));
  head.prepend(element("span"));
  const rows = Object.keys(TITLES).map((name) => row(viewer, name, initial[name]));
  const linked = element("input", { type: "checkbox", checked: viewer.state.linkedWindows });
  linked.addEventListener("change", () => viewer.set({ linkedWindows: linked.checked }));
  const reset = element("button", { type: "button", textContent: "reset" });
  reset.addEventListener("click", () => {
    viewer.set({ windows: structuredClone(initial) });
    drawWindows(viewer);
  });
  box.replaceChildren(head, ...rows, element("div", { className: "row" }, reset, element("label", {}, linked, " together")));
}

function row(viewer, name, initial) {
  const span = initial[1] - initial[0];
  const [low, high] = viewer.state.windows[name];
  const level = slider(`${TITLES[name]} level`, initial[0], initial[1], (low + high) / 2, span);
  const width = slider(`${TITLES[name]} width`, span / 100, 2 * span, high - low, span);
  const changed = () => {
    const [middle, wide] = [Number(level.value), Number(width.value)];
    setWindow(viewer, name, [middle - wide / 2, middle + wide / 2]);
  };
  level.addEventListener("input", changed);
  width.addEventListener("input", changed);
  return element("div", { className: "row" }, element("span", { textContent: TITLES[name] }), level, width);
}

function slider(title, min, max, value, span) {
  const made = element("input", { type: "range", min, max, step: span / STEPS });
  made.value = value;
  made.setAttribute("aria-label", title);
  return made;
}

/** Set a window; together, the other takes the same share of its own. */
export function setWindow(viewer, name, window) {
  const { windows, linkedWindows } = viewer.state;
  const next = { ...windows, [name]: window };
  if (linkedWindows) for (const other of Object.keys(windows)) next[other] = window;
  viewer.set({ windows: next });
  if (linkedWindows) syncRows(next);
}

function syncRows(windows) {
  const rows = document.querySelectorAll("#windows .row");
  Object.values(windows).forEach(([low, high], k) => {
    const [level, width] = rows[k + 1].querySelectorAll("input");
    level.value = (low + high) / 2;
    width.value = high - low;
  });
}
