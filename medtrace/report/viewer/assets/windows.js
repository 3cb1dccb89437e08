// Window and level: which intensities are black and white.

import { element } from "./elements.js";

const SIDES = { source: "source", image: "target" };
const STEPS = 400;

/** Level and width of each image, as sliders and as numbers. */
export function drawWindows(viewer) {
  const box = document.getElementById("windows");
  const suggested = viewer.suggestedWindows();
  const rows = Object.keys(SIDES).flatMap((name) => rowsOf(viewer, name, suggested[name]));
  const linked = element("input", { type: "checkbox", checked: viewer.state.linkedWindows });
  linked.addEventListener("change", () => viewer.set({ linkedWindows: linked.checked }));
  const reset = element("button", { type: "button", textContent: "reset" });
  reset.addEventListener("click", () => {
    viewer.set({ windows: viewer.suggestedWindows() });
    drawWindows(viewer);
  });
  box.replaceChildren(...rows, element("div", { className: "row" }, reset, element("label", {}, linked, " together")));
  showNumbers(viewer.state.windows);
}

/** A row for the level and one for the width of an image's window. */
function rowsOf(viewer, name, [low, high]) {
  const span = high - low;
  const ranges = { level: [low, high], width: [span / 100, 2 * span] };
  return Object.entries(ranges).map(([part, [min, max]]) => {
    const title = `${viewer.model.names[SIDES[name]]} ${part}`;
    const slider = element("input", { type: "range", min, max, step: span / STEPS });
    const number = element("input", { type: "number", step: "any", required: true });
    for (const input of [slider, number]) {
      input.dataset.window = `${name} ${part}`;
      input.setAttribute("aria-label", title);
      input.addEventListener(input === slider ? "input" : "change", () => change(viewer, name, part, input));
    }
    return element("div", { className: "row" }, element("span", { textContent: title }), slider, number);
  });
}

function change(viewer, name, part, input) {
  const value = Number(input.value);
  const [low, high] = viewer.state.windows[name];
  const level = part === "level" ? value : (low + high) / 2;
  const width = part === "width" ? value : high - low;
  if (input.value !== "" && Number.isFinite(value) && width > 0) setWindow(viewer, name, [level - width / 2, level + width / 2]);
  showNumbers(viewer.state.windows);
}

/** Set a window; if they are linked, the other takes the same. */
export function setWindow(viewer, name, window) {
  const { windows, linkedWindows } = viewer.state;
  const next = { ...windows, [name]: window };
  if (linkedWindows) for (const other of Object.keys(windows)) next[other] = window;
  viewer.set({ windows: next });
}

/** Set sliders and numbers to the windows. */
function showNumbers(windows) {
  for (const input of document.querySelectorAll("#windows [data-window]")) {
    const [name, part] = input.dataset.window.split(" ");
    const [low, high] = windows[name];
    const value = part === "level" ? (low + high) / 2 : high - low;
    input.value = input.type === "range" ? value : Number(value.toPrecision(4));
  }
}
