// The legend, and a one-minute tour.

import { byId, element } from "./elements.js";

const LEGEND = [
  ["cross", "#F0E442", "the corresponding point, in every pane", () => true],
  ["path", "#E69F00", "the path from where it was; a dot marks that end", () => true],
  ["grid", "#F0B429", "lines that are straight in the source", () => true],
  ["arrows", "#56B4E9", "from where tissue was to where it is", () => true],
  ["mask", "#D55E00", "where intensity may change (a lesion)", (model) => model.marksLesion],
  ["folds", "#ffffff", "fold: the field is turned inside out", (model) => model.has("folds")],
];
const MAPS = {
  none: "No map is drawn.",
  displacement: "Map: how far tissue moved, in UNIT.",
  jacobian: "Map: growth (below 1) and shrinkage (above 1) of tissue.",
  appearance: "Map: change of intensity that contrast explains.",
  residual: "Map: change of intensity that nothing explains.",
  trust: "Map: change that nothing explains, where it exceeds chance.",
  error: "Map: true image minus this one.",
};

const STEPS = [
  ["[data-pane=source]", "This is the input scan. Point anywhere in it: every other pane shows the same tissue."],
  ["[data-pane=image]", ""],
  ["[data-pane=map]", "Colors show how much changed: displacement, growth, contrast, or unexplained change. Choose the map above the image."],
  ["#sentence", "The point under the crosshair in words: how it moved, and how much of its change is explained."],
  ["#verdict", "The verdict says how far to trust this result. Press it to see every check in words."],
  [".tools", "Wheel, pinch, or + and − zoom; dragging pans a zoomed image; the ruler measures. Help lists every key."],
];

const IMAGE = {
  translation: "This image was computed. It is synthetic: it shows what a method expects; no scanner acquired it.",
  "registered image": "This image was computed: the moving image, deformed to match the target.",
};

export function drawLegend(viewer) {
  const unit = viewer.model.description.photograph ? "pixels" : "mm";
  const rows = LEGEND.filter(([name, , , there]) => viewer.state.show[name] && there(viewer.model))
    .map(([, color, text]) => {
      const swatch = element("i");
      swatch.style.background = color;
      return element("li", {}, swatch, text);
    });
  byId("legend").replaceChildren(...rows, element("li", { textContent: MAPS[viewer.state.layer].replace("UNIT", unit) }));
}

export function buildTour(viewer) {
  let step = -1;
  const card = byId("tour-card");
  const show = (next) => {
    document.querySelector(".touring")?.classList.remove("touring");
    const steps = STEPS.filter(([place]) => document.querySelector(place)?.offsetParent);
    step = next;
    card.hidden = step < 0 || step >= steps.length;
    if (card.hidden) {
      byId("tour").focus();
      return;
    }
    const [place, text] = steps[step];
    document.querySelector(place).classList.add("touring");
    document.querySelector(place).scrollIntoView({ block: "nearest" });
    byId("tour-text").textContent = text || IMAGE[viewer.model.names.target];
    byId("tour-count").textContent = `${step + 1} of ${steps.length}`;
    byId("tour-next").textContent = step + 1 < steps.length ? "Next" : "Done";
    byId("tour-next").focus();
  };
  byId("tour").addEventListener("click", () => show(0));
  byId("tour-next").addEventListener("click", () => show(step + 1));
  byId("tour-end").addEventListener("click", () => show(-1));
  card.addEventListener("keydown", (event) => {
    if (event.key === "Escape") show(-1);
    event.stopPropagation();
  });
}
