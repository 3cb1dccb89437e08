// Keyboard, and the panel that explains it.

import { nextFold, openPanel, play, showCertificate, switchTheme } from "./controls.js";
import { byId, element } from "./elements.js";
import { stepSlice } from "./pointer.js";

const SHOWN = { x: "cross", l: "path", g: "grid", v: "arrows", f: "folds", m: "mask", k: "labels", o: "regions" };
const MAP_KEYS = { d: "displacement", j: "jacobian", a: "appearance", r: "residual", e: "error" };
const PLANE_KEYS = { 1: "axial", 2: "coronal", 3: "sagittal", 4: "three" };

const HELP = [
  ["Point", "Hover over a pane: the other panes show the corresponding point, and the line shows its path. Click to hold it."],
  ["Esc", "release the point, or stop drawing"],
  ["← → ↑ ↓", "move the point by one voxel"],
  ["wheel, Page Up / Down", "step through the slices of a volume (the wheel zooms a 2D trace)"],
  ["Ctrl + wheel, pinch, + − 0", "zoom in, out, reset; drag to pan a zoomed image"],
  ["touch", "drag up or down to step through the slices of a volume; pinch to zoom"],
  ["1 2 3 4", "axial, coronal, sagittal, all three"],
  ["double click, Enter", "show one pane alone, or all again"],
  ["I", "ruler: drag from one point to another"],
  ["space", "play the flow"],
  ["B S W", "blink, swipe; W switches the image compared with"],
  ["D J A R E", "map: displacement, Jacobian, appearance change, residual, error"],
  ["G V F M K", "grid, arrows, folds, mask, labels"],
  ["X L O", "crosshair, path, regions"],
  ["N P", "next, previous trace"],
  ["Q H", "draw a box, a freehand outline"],
  ["Z C", "the next fold, the certificate"],
  ["T ?", "light or dark; this panel"],
];
const EXPLANATIONS = [
  "The warped source is what deformation alone explains. image = warped + appearance + residual.",
  "Grid lines are straight in the source and deform with it. Arrows point from where tissue was to where it is now.",
  "The Jacobian of the resampling field is volume in the source over volume in the translation: below 1, tissue has grown. It is drawn on a logarithmic scale.",
  "A white square with a black cross is a folded voxel: there the field is not invertible, and there is no valid correspondence.",
  "The size of a region on the other side is its drawn size times the mean Jacobian over it.",
  "Scores follow the reader study of Plasticine: 1 is best, 5 worst.",
];

export function listenKeys(viewer) {
  byId("help").addEventListener("click", showHelp);
  byId("verdict").addEventListener("click", showCertificate);
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!viewer.model || document.querySelector("dialog[open]")) return;
    if (event.target.matches("input") && event.key.startsWith("Arrow")) return;
    if (event.target.matches("button, input") && event.key === " ") return;
    if (event.key === "Enter") {
      const pane = viewer.shown.find(({ canvas }) => canvas === event.target);
      if (pane) viewer.set({ alone: viewer.state.alone === pane.key ? null : pane.key });
      return;
    }
    if (press(viewer, event.key.length === 1 ? event.key.toLowerCase() : event.key)) event.preventDefault();
  });
}

function press(viewer, key) {
  const { state } = viewer;
  if (SHOWN[key]) viewer.show(SHOWN[key]);
  else if (MAP_KEYS[key]) {
    if (viewer.layers().includes(MAP_KEYS[key])) viewer.set({ layer: MAP_KEYS[key] });
  } else if (PLANE_KEYS[key]) {
    if (viewer.hasPlane(PLANE_KEYS[key])) viewer.set({ planeName: PLANE_KEYS[key], alone: null });
  } else if (key.startsWith("Arrow")) movePoint(viewer, key);
  else if (ACTIONS[key]) ACTIONS[key](viewer, state);
  else return false;
  return true;
}

const ACTIONS = {
  Escape: (viewer) => viewer.set({ pinned: false, tool: "point", draft: null, ruler: null, alone: null }),
  PageUp: (viewer) => stepSlice(viewer, primaryPane(viewer), 1),
  PageDown: (viewer) => stepSlice(viewer, primaryPane(viewer), -1),
  "+": (viewer) => viewer.zoom(1.25),
  "=": (viewer) => viewer.zoom(1.25),
  "-": (viewer) => viewer.zoom(0.8),
  0: (viewer) => viewer.zoom(0),
  " ": (viewer) => play(viewer),
  b: (viewer, { compare }) => viewer.set({ compare: compare === "blink" ? "off" : "blink", blink: false }),
  s: (viewer, { compare }) => viewer.set({ compare: compare === "swipe" ? "off" : "swipe" }),
  w: (viewer, { rival }) => viewer.set({ rival: after([...byId("rival").options].map((option) => option.value), rival, 1) }),
  n: (viewer) => changeCase(viewer, 1),
  p: (viewer) => changeCase(viewer, -1),
  i: (viewer) => viewer.set({ tool: "ruler" }),
  q: (viewer) => viewer.set({ tool: "box" }),
  h: (viewer) => viewer.set({ tool: "freehand" }),
  t: () => switchTheme(),
  "?": () => showHelp(),
  z: (viewer) => nextFold(viewer),
  c: () => showCertificate(),
};

function after(choices, current, step) {
  return choices[(choices.indexOf(current) + step + choices.length) % choices.length];
}

function changeCase(viewer, step) {
  const count = viewer.scene.cases.length;
  if (count > 1) viewer.select((viewer.number + step + count) % count);
}

/** The pane that has the focus, or else the one of the side last pointed at. */
function primaryPane(viewer) {
  const focused = viewer.shown.find((pane) => pane.canvas === document.activeElement);
  if (focused) return focused;
  if (viewer.shown[0].planeName) return viewer.shown[0];
  return viewer.state.point.side === "source" ? viewer.panes.source : viewer.panes.image;
}

function movePoint(viewer, key) {
  const { plane, side } = primaryPane(viewer);
  const voxel = viewer.state.point[side];
  const [u, v] = plane.toPage(voxel);
  const [du, dv] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  const next = [Math.min(plane.width - 1, Math.max(0, u + du)), Math.min(plane.height - 1, Math.max(0, v + dv))];
  viewer.point(side, plane.toVoxel(...next, voxel[plane.normal]));
  viewer.set({ pinned: true });
}

function showHelp() {
  const list = element("dl");
  for (const [keys, meaning] of HELP) {
    list.append(element("dt", {}, element("kbd", { textContent: keys })), element("dd", { textContent: meaning }));
  }
  byId("help-text").replaceChildren(list, ...EXPLANATIONS.map((line) => element("p", { textContent: line })));
  openPanel("help-panel");
}
