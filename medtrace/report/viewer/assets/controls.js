// Buttons, sliders and the table of readings.

import { byId, element } from "./elements.js";
import { drawWindows } from "./windows.js";
import { exactness, readings } from "./readout.js";
import { buildTour, drawLegend } from "./tour.js";
import { sentence } from "./words.js";
import { MAPS, ticksOf } from "./slices.js";
import { COLOR, THREE } from "./viewer.js";

const LAYERS = {
  grid: "grid", arrows: "arrows", folds: "folds", mask: "mask", labels: "labels", regions: "regions", path: "path",
  cross: "crosshair", scale: "scale bar", tissue: "map on tissue only",
};
const TOOLS = { point: "point", ruler: "ruler", box: "box", freehand: "freehand" };
const COMPARISONS = { off: "off", swipe: "swipe", blink: "blink" };
const PLAY_SECONDS = 3;

export function buildControls(viewer) {
  viewer.scene.cases.forEach((description, number) => {
    byId("case").append(element("option", { value: number, textContent: description.name }));
  });
  byId("case").addEventListener("change", (event) => viewer.select(Number(event.target.value)));
  byId("case").parentElement.hidden = viewer.scene.cases.length < 2;
  byId("channel").addEventListener("change", ({ target }) => (
    viewer.choose(target.value === COLOR ? COLOR : Number(target.value))
  ));
  viewer.addEventListener("channel", () => drawWindows(viewer));
  buttons("tool", TOOLS, (tool) => viewer.set({ tool }));
  buttons("compare", COMPARISONS, (compare) => viewer.set({ compare, blink: false }));
  for (const [name, title] of Object.entries(LAYERS)) {
    const box = element("input", { type: "checkbox", id: `show-${name}` });
    box.addEventListener("change", () => viewer.show(name, box.checked));
    byId("layers").append(element("label", {}, box, title));
  }
  onInput("time", (value) => viewer.set({ time: Number(value), playing: false }));
  onInput("opacity", (value) => viewer.set({ opacity: Number(value) }));
  onInput("depth", (value) => viewer.set({ depth: Math.min(99, Math.max(1, Math.round(Number(value)) || 1)) }));
  onInput("layer", (layer) => viewer.set({ layer }));
  onInput("rival", (rival) => viewer.set({ rival }));
  byId("morph").addEventListener("change", (event) => viewer.set({ morph: event.target.checked }));
  byId("play").addEventListener("click", () => play(viewer));
  byId("pin").addEventListener("click", () => viewer.set({ pinned: !viewer.state.pinned }));
  byId("folds").addEventListener("click", () => nextFold(viewer));
  byId("theme").addEventListener("click", switchTheme);
  viewer.addEventListener("case", () => caseControls(viewer));
  addEventListener("beforeprint", () => viewer.model && viewer.draw());
  buildTour(viewer);
  showTheme();
}

function onInput(id, act) {
  byId(id).addEventListener("input", (event) => act(event.target.value));
}

function buttons(id, titles, act) {
  for (const [value, title] of Object.entries(titles)) {
    const button = element("button", { type: "button", textContent: title, value });
    button.addEventListener("click", () => act(value));
    byId(id).append(button);
  }
}

/** What depends on the case: planes, maps, rivals, notes. */
function caseControls(viewer) {
  const { model } = viewer;
  const { description } = model;
  document.title = `medtrace: ${description.name}`;
  byId("case").value = viewer.number;
  byId("about").textContent = [
    viewer.scene.cases.length < 2 ? description.name : "", description.method ?? "", ...description.notes,
    description.sameUnit ? "" : `${description.units.source} to ${description.units.image}: image = appearance + residual`,
  ].filter(Boolean).join(" · ");
  byId("planes").querySelectorAll("button").forEach((button) => button.remove());
  const names = Object.keys(model.planes);
  byId("planes").hidden = names.length < 2;
  const titles = { ...Object.fromEntries(names.map((name) => [name, name])), [THREE]: "all three" };
  buttons("planes", titles, (planeName) => viewer.set({ planeName, alone: null }));
  nameTools(model);
  document.querySelector(".depth").hidden = !model.hasSlices;
  const rivals = { warped: "warped source", source: "source" };
  if (model.has("truth")) rivals.truth = "target";
  options("rival", rivals);
  if (!rivals[viewer.state.rival]) viewer.state.rival = "warped";
  channelControl(viewer);
  options("layer", Object.fromEntries(viewer.layers().map((name) => [name, MAPS[name].title])));
  const folds = byId("folds");
  folds.hidden = description.folds === 0;
  folds.textContent = `⚠ ${description.folds} folded ${description.folds === 1 ? "voxel" : "voxels"}`;
  folds.title = "Go to the next fold";
  for (const [name, present] of Object.entries({
    folds: description.folds > 0, mask: model.has("mask"), labels: model.has("labels"), tissue: model.has("tissue"),
  })) byId(`show-${name}`).parentElement.hidden = !present;
  showVerdict(description.certificate);
  byId("exactness").replaceChildren(...exactness(model).map((line) => element("li", { textContent: line })));
  drawWindows(viewer);
}

/** Name the panes by what they show: those of a registration show no translation. */
function nameTools({ description }) {
  const { registration } = description;
  const titles = {
    source: registration ? "Moving image" : "Source", warped: registration ? "Moving, deformed" : "Warped source",
    image: registration ? "Moving, registered" : "Translation", truth: registration ? "Target (fixed image)" : "Target",
  };
  for (const [name, title] of Object.entries(titles)) {
    for (const figure of document.querySelectorAll(`[data-pane="${name}"], [data-three^="${name} "]`)) {
      const plane = figure.dataset.three ? `, ${figure.dataset.three.split(" ")[1]}` : "";
      figure.querySelector("b").textContent = title + plane;
      figure.querySelector("canvas").setAttribute("aria-label", title + plane);
    }
  }
}

/** Which channel is shown, where there are several. */
function channelControl(viewer) {
  const { channels } = viewer.model;
  byId("channels").hidden = channels < 2;
  const titles = viewer.hasColor() ? { [COLOR]: "color" } : {};
  for (let channel = 0; channel < channels; channel++) titles[channel] = `${channel + 1} of ${channels}`;
  options("channel", titles);
}

const MARKS = { PASS: "✓", WARN: "!", FAIL: "✗" };

/** The certificate's verdict; a press opens its table. */
function showVerdict(certificate) {
  const button = byId("verdict");
  button.hidden = !certificate;
  byId("verdict-on-paper").hidden = !certificate;
  if (!certificate) return;
  const { title, verdict, stale, html, words } = certificate;
  button.textContent = `${MARKS[verdict]} ${title}: ${verdict}${stale ? " (for other files)" : ""}`;
  button.className = `status ${stale ? "SKIPPED" : verdict}`;
  byId("certificate").innerHTML = html; // written and escaped with the page
  for (const id of ["certificate-words", "verdict-words"]) {
    byId(id).replaceChildren(...words.map((line) => element("p", { textContent: line })));
  }
}

export function showCertificate() {
  if (!byId("verdict").hidden) openPanel("certificate-panel");
}

/** Open a dialog at its top; the browser would scroll to the button that it gives the focus. */
export function openPanel(id) {
  byId(id).showModal();
  byId(id).scrollTop = 0;
}

function options(id, titles) {
  byId(id).replaceChildren(
    ...Object.entries(titles).map(([value, title]) => element("option", { value, textContent: title })),
  );
}

/** Set every control to the state. */
export function sync(viewer) {
  const { state, model } = viewer;
  press("tool", state.tool);
  press("compare", state.compare);
  press("planes", state.planeName);
  byId("pin").setAttribute("aria-pressed", state.pinned);
  byId("time").value = state.time;
  byId("time-text").textContent = state.time.toFixed(2);
  byId("play").textContent = state.playing ? "❚❚" : "▶";
  byId("morph").checked = state.morph;
  byId("opacity").value = state.opacity;
  byId("rival").value = state.rival;
  byId("rival").disabled = state.compare === "off";
  byId("layer").value = state.layer;
  byId("channel").value = state.channel;
  for (const name of Object.keys(LAYERS)) byId(`show-${name}`).checked = state.show[name];
  for (const pane of viewer.shown) syncSlider(viewer, pane);
  syncBar(viewer, model.description.ranges[state.layer]);
  drawLegend(viewer);
  const told = sentence(viewer);
  if (byId("sentence").textContent !== told) byId("sentence").textContent = told;
  showReadings(byId("readout").tBodies[0], readings(viewer));
}

/** Write the rows; if they are the same as before, only the changed cells, which avoids a layout of the rest. */
function showReadings(body, rows) {
  if (rows.map(([key]) => key).join() !== [...body.rows].map((row) => row.dataset.reading).join()) {
    body.replaceChildren(...rows.map(([key]) => {
      const row = element("tr", {}, element("th"), element("td"));
      row.dataset.reading = key;
      return row;
    }));
  }
  rows.forEach(([, ...texts], number) => texts.forEach((text, column) => {
    const cell = body.rows[number].cells[column];
    if (cell.textContent !== text) cell.textContent = text;
  }));
}

function press(id, value) {
  for (const button of byId(id).querySelectorAll("button")) button.setAttribute("aria-pressed", button.value === value);
}

function syncSlider(viewer, pane) {
  const { model } = viewer;
  const planeName = viewer.planeNameOf(pane);
  const plane = model.planes[planeName][pane.side];
  pane.slider.hidden = !model.hasSlices;
  pane.slider.max = plane.slices - 1;
  pane.slider.value = viewer.sliceOf(pane.side, planeName);
  pane.label.textContent = model.hasSlices ? `slice ${viewer.sliceOf(pane.side, planeName) + 1} of ${plane.slices}` : "";
}

function syncBar(viewer, range) {
  const { layer } = viewer.state;
  const bar = document.querySelector(".bar");
  bar.hidden = layer === "none";
  if (bar.hidden) return;
  bar.querySelector("i").style.background = viewer.maps[MAPS[layer].colors].css();
  const unit = MAPS[layer].unit && viewer.model.description.photograph ? "px" : MAPS[layer].unit;
  ticksOf(layer, range).forEach((tick, k) => {
    bar.querySelectorAll("span")[k].textContent = unit && k === 2 ? `${tick} ${unit}` : tick;
  });
}

/** Let the flow run from the source to the warped source. */
export function play(viewer) {
  const { state } = viewer;
  if (state.playing) {
    viewer.set({ playing: false });
    return;
  }
  const from = state.time >= 1 ? 0 : state.time;
  const started = performance.now() - from * PLAY_SECONDS * 1000;
  viewer.set({ playing: true, time: from });
  const step = (now) => {
    if (!state.playing) return;
    const time = Math.min(1, Math.max(0, (now - started) / (PLAY_SECONDS * 1000)));
    viewer.set({ time, playing: time < 1 });
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

/** Put the crosshair on the next folded voxel. */
export function nextFold(viewer) {
  const { folds } = viewer.model;
  if (!folds) return;
  const [, n1, n2] = folds.shape;
  const start = (viewer.fold ?? -1) + 1;
  for (let k = 0; k < folds.count; k++) {
    const at = (start + k) % folds.count;
    if (folds.values[at] === 0) continue;
    viewer.fold = at;
    viewer.show("folds", true);
    viewer.set({ pinned: true });
    viewer.point("target", [Math.floor(at / (n1 * n2)), Math.floor(at / n2) % n1, at % n2]);
    return;
  }
}

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

export function switchTheme() {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  showTheme();
}

function showTheme() {
  byId("theme").textContent = dark() ? "Light" : "Dark";
}
