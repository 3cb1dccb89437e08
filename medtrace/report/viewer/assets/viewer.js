// The viewer's state, and the panes drawn from it.

import { ColorMap, shade } from "./colors.js";
import { Model } from "./model.js";
import { Pane } from "./pane.js";
import { arrange } from "./arranging.js";
import * as marks from "./marks.js";
import * as overlays from "./overlays.js";
import { apply } from "./affine.js";
import { MAPS, frameSlice, imageSlice, mapSlice, morphSlice, placeOf } from "./slices.js";

const PANES = { source: "source", warped: "target", image: "target", truth: "target", map: "target" };
export const THREE = "three";
const ZOOMS = [0.4, 24];
const BLINK_MS = 650;
export const COLOR = "color";

export function startingState() {
  return {
    planeName: "axial", point: null, pinned: false, time: 1, playing: false, morph: false, zoom: 1, anchor: null,
    layer: "displacement", opacity: 0.65, compare: "off", rival: "warped", swipe: 0.5, blink: false,
    tool: "point", depth: 3, draft: null, ruler: null, alone: null,
    windows: null, linkedWindows: true, channel: COLOR,
    show: { cross: true, path: true, grid: false, arrows: false, folds: true, mask: true, labels: true, regions: true, scale: true, tissue: true },
  };
}

export class Viewer extends EventTarget {
  constructor(scene, root) {
    super();
    this.scene = scene;
    this.root = root;
    this.maps = { amount: new ColorMap(scene.maps.amount), change: new ColorMap(scene.maps.change) };
    this.state = startingState();
    this.regions = scene.cases.map(() => []);
    this.panes = {};
    const shared = { source: { bitmaps: new Map(), kept: new Map() }, target: { bitmaps: new Map(), kept: new Map() } };
    for (const [name, side] of Object.entries(PANES)) {
      this.panes[name] = new Pane(root.querySelector(`[data-pane=${name}]`), name, side, shared[side]);
    }
    for (const element of root.querySelectorAll("[data-three]")) {
      const [name, planeName] = element.dataset.three.split(" ");
      const own = { bitmaps: new Map(), kept: new Map() };
      this.panes[element.dataset.three] = new Pane(element, name, PANES[name], own, planeName);
    }
    new ResizeObserver(() => this.update()).observe(root.querySelector(".panes"));
    setInterval(() => this.tick(), BLINK_MS);
  }

  /** Show another case. */
  async select(number) {
    this.number = number;
    this.complete = false;
    const model = await new Model(this.scene.cases[number]).open();
    if (this.number !== number) return;
    this.model = model;
    const { description } = model;
    Object.assign(this.state, {
      planeName: this.hasPlane(this.state.planeName, model) ? this.state.planeName : Object.keys(model.planes)[0],
      point: model.pair("target", description.start), pinned: false, zoom: 1, anchor: null, draft: null, ruler: null, alone: null,
      channel: this.hasColor(model) || model.channels < 2 ? COLOR : 0,
    });
    this.resetWindows();
    if (!this.layers().includes(this.state.layer)) this.state.layer = "displacement";
    for (const pane of Object.values(this.panes)) pane.forget();
    this.dispatchEvent(new Event("case"));
    this.update();
    await model.openRest((name) => this.number === number && this.arrived(name));
    if (this.number === number) this.complete = true;
    performance.mark("complete");
  }

  /** Draw with what has been read; full resolution replaces a preview everywhere. */
  arrived(name) {
    if (name === "first") {
      const { side } = this.state.point;
      this.state.point = this.model.pair(side, this.state.point[side]);
      for (const pane of Object.values(this.panes)) pane.forget();
      this.dispatchEvent(new Event("refined"));
    }
    this.update();
  }

  /** Whether three channels are shown as red, green and blue. */
  hasColor(model = this.model) {
    return model.channels === 3;
  }

  /** Which channels of a volume are shown: all three as color, or one. */
  channelsOf(volume) {
    const { channel } = this.state;
    if (channel === COLOR) return volume.channels === 3 ? [0, 1, 2] : [0];
    return [Math.min(channel, volume.channels - 1)];
  }

  /** The channel that maps show. */
  get mapChannel() {
    return this.channelsOf(this.model.image)[0];
  }

  /** Windows as the data suggest for the channel. */
  suggestedWindows() {
    const { windows, channelWindows } = this.model.description;
    if (this.state.channel === COLOR) return structuredClone(windows);
    const of = (name, volume) => [...channelWindows[name][this.channelsOf(volume)[0]]];
    return { source: of("source", this.model.source), image: of("image", this.model.image) };
  }

  resetWindows() {
    const windows = this.suggestedWindows();
    Object.assign(this.state, { windows, linkedWindows: this.model.description.sameUnit && alike(windows) });
  }

  choose(channel) {
    this.state.channel = channel;
    this.resetWindows();
    this.dispatchEvent(new Event("channel"));
    this.update();
  }

  layers() {
    const { model } = this;
    const known = ["none", "displacement", "jacobian"];
    if (model.description.appearance.kind !== "none") known.push("appearance", "residual");
    if (model.has("unexplained") && model.description.appearance.kind !== "none") known.push("trust");
    if (model.has("truth")) known.push("error");
    return known;
  }

  get caseRegions() {
    return this.regions[this.number];
  }

  /** Point at a voxel of one side; the other side follows. */
  point(side, voxel) {
    this.state.point = this.model.pair(side, voxel);
    this.update();
  }

  set(changes) {
    Object.assign(this.state, changes);
    this.update();
  }

  show(name, on) {
    this.state.show[name] = on ?? !this.state.show[name];
    this.update();
  }

  hasPlane(name, model = this.model) {
    return name === THREE ? model.hasSlices : Boolean(model.planes[name]);
  }

  /** Zoom about the crosshair; a factor of 0 restores the initial view. */
  zoom(factor) {
    if (factor === 0) {
      this.set({ zoom: 1, anchor: null });
      return;
    }
    const { source, target } = this.state.point;
    this.set({ zoom: limited(this.state.zoom * factor), anchor: { source: [...source], target: [...target] } });
  }

  /** Zoom about a page point of a pane, which stays where it is on the screen. */
  zoomAt(pane, [u, v], factor) {
    const zoom = limited(this.state.zoom * factor);
    const part = 1 - this.state.zoom / zoom;
    this.centerOn(pane, pane.center.map((value, k) => value + part * ([u, v][k] - value)), zoom);
  }

  /** Center a pane on a page point, and the other panes on the corresponding one. */
  centerOn(pane, [u, v], zoom = this.state.zoom) {
    const { source, target } = this.model.pair(pane.side, pane.plane.toVoxel(u, v, pane.index));
    this.set({ zoom, anchor: { source, target } });
  }

  /** The panes that are shown. */
  get shown() {
    const { state, model } = this;
    const three = state.planeName === THREE;
    const seen = Object.values(this.panes).filter((pane) => (
      three ? pane.planeName : !pane.planeName && (pane.name !== "truth" || model.has("truth"))
    ));
    const alone = seen.filter((pane) => pane.key === state.alone);
    return alone.length ? alone : seen;
  }

  planeNameOf(pane) {
    return pane.planeName ?? this.state.planeName;
  }

  /** Draw at the next frame, once. */
  update() {
    if (this.waiting || !this.model) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
      if (!performance.getEntriesByName("first picture").length) performance.mark("first picture");
      this.dispatchEvent(new Event("drawn"));
    });
  }

  tick() {
    if (this.state.compare !== "blink") return;
    this.state.blink = !this.state.blink;
    this.update();
  }

  sliceOf(side, planeName = this.state.planeName) {
    const name = planeName === THREE ? "axial" : planeName;
    return this.model.planes[name][side].slice(this.state.point[side]);
  }

  draw() {
    const { state, model } = this;
    const { shown } = this;
    arrange(this, shown);
    for (const pane of shown) {
      const plane = model.planes[this.planeNameOf(pane)][pane.side];
      const center = state.anchor ? plane.toPage(state.anchor[pane.side]) : null;
      pane.layout(plane, plane.slice(state.point[pane.side]), state.zoom, center);
      pane.clear();
    }
    for (const pane of shown) this.drawImages(pane);
    const path = model.correspondence.path(state.point.target);
    for (const pane of shown) this.drawOver(pane, path);
  }

  /** A slice in gray (or color), kept until its key changes. */
  gray(pane, layer, name, volume, window, make) {
    const { state } = this;
    const channels = this.channelsOf(volume);
    const key = [this.number, this.planeNameOf(pane), pane.index, name, ...window, ...channels].join(" ");
    pane.image(layer, key, (rgba) => shade(make(channels), channels.length, window, rgba), state.zoom < 4);
  }

  drawImages(pane) {
    const { windows } = this.state;
    const { source } = this.model;
    if (pane.name === "source") {
      const values = (channels) => imageSlice(source, pane.plane, pane.index, channels);
      this.gray(pane, "source", "source", source, windows.source, values);
    } else if (pane.name === "warped") this.drawFrame(pane);
    else if (pane.name === "truth") this.drawTruth(pane);
    else {
      this.drawImage(pane);
      if (pane.name === "map") this.drawMap(pane);
      else this.drawComparison(pane);
    }
  }

  drawTruth(pane) {
    const { state, model } = this;
    if (!model.truth) return;
    const values = (channels) => imageSlice(model.truth, pane.plane, pane.index, channels);
    this.gray(pane, "rival", "truth", model.truth, state.windows.image, values);
  }

  drawFrame(pane) {
    const { state, model } = this;
    const make = state.morph ? morphSlice : frameSlice;
    const flow = model.correspondence.velocity ? "flow" : "line";
    const name = `warped ${state.time} ${state.morph} ${state.time < 1 ? flow : ""}`;
    const values = (channels) => make(model, pane.plane, pane.index, state.time, channels);
    this.gray(pane, "frame", name, model.source, state.windows.source, values);
  }

  drawImage(pane) {
    const { state, model } = this;
    const values = (channels) => imageSlice(model.image, pane.plane, pane.index, channels);
    this.gray(pane, "image", "image", model.image, state.windows.image, values);
  }

  drawRival(pane) {
    const { state, model } = this;
    if (state.rival === "truth" && model.truth) {
      this.drawTruth(pane);
      return;
    }
    const time = state.rival === "source" ? 0 : 1;
    const values = (channels) => frameSlice(model, pane.plane, pane.index, time, channels);
    this.gray(pane, "rival", `warped ${time}`, model.source, state.windows.source, values);
  }

  drawComparison(pane) {
    const { state } = this;
    if (state.compare === "blink" && state.blink) this.drawRival(pane);
    if (state.compare !== "swipe") return;
    const { context, size } = pane;
    const edge = state.swipe * size[0];
    context.save();
    context.beginPath();
    context.rect(0, 0, edge, size[1]);
    context.clip();
    pane.clear();
    this.drawRival(pane);
    context.restore();
    context.fillStyle = "#ffffff";
    context.fillRect(edge - 1, 0, 2, size[1]);
  }

  drawMap(pane) {
    const { state, model } = this;
    if (!this.mapReady() || state.layer === "none") return;
    const range = model.description.ranges[state.layer];
    const colors = this.maps[MAPS[state.layer].colors];
    const channel = this.mapChannel;
    const tissue = state.show.tissue ? model.tissue : null;
    const key = [this.number, this.planeNameOf(pane), pane.index, state.layer, channel, Boolean(tissue)].join(" ");
    pane.context.globalAlpha = state.opacity;
    pane.image("map", key, (rgba) => {
      const { plane, index } = pane;
      const inside = tissue?.slice(plane, index, 0, new Float32Array(plane.width * plane.height));
      mapSlice(model, state.layer, plane, index, channel).forEach((value, pixel) => {
        if (inside && inside[pixel] <= 0.5) return;
        colors.mix(placeOf(state.layer, value, range), 1, rgba, pixel);
        rgba[4 * pixel + 3] = 255;
      });
    }, state.zoom < 4);
    pane.context.globalAlpha = 1;
  }

  mapReady() {
    const { model, state } = this;
    const { kind } = model.description.appearance;
    const account = { mask: "mask", stored: "appearance" }[kind];
    const needs = { error: ["truth"], appearance: [account], residual: [account], trust: [account, "unexplained"] };
    return (needs[state.layer] ?? []).every((name) => !name || Boolean(model[name]));
  }

  drawOver(pane, path) {
    const { state, model } = this;
    const { show } = state;
    const onTarget = pane.side === "target";
    const time = pane.name === "warped" ? state.time : 1;
    if (show.grid && pane.name === "warped") overlays.drawGrid(pane, model, time);
    if (show.arrows && ["source", "warped"].includes(pane.name)) overlays.drawArrows(pane, model);
    if (time === 1 && show.mask && model.mask) overlays.drawMask(pane, model);
    if (time === 1 && show.labels && model.labels) overlays.drawLabels(pane, model);
    if (time === 1 && show.regions) {
      for (const region of this.caseRegions) overlays.drawRegion(pane, model, region, this.planeNameOf(pane));
    }
    if (show.folds && model.folds && onTarget && pane.name !== "image") overlays.drawFolds(pane, model.folds);
    if (state.draft && state.draft.pane === pane) overlays.drawDraft(pane, state.draft.polygon);
    if (show.cross) this.drawPoint(pane, path, time);
    if (state.ruler && state.ruler.side === pane.side && state.ruler.planeName === this.planeNameOf(pane)) {
      if (state.ruler.index === pane.index) marks.drawRuler(pane, model, state.ruler);
    }
    const { photograph } = model.description;
    marks.drawLetters(pane, photograph);
    if (show.scale) marks.drawScale(pane, photograph);
    if (["image", "map"].includes(pane.name)) marks.drawNotice(pane, this.notice());
  }

  /** What the computed images are, written on them. */
  notice() {
    const { registration, method, units } = this.model.description;
    const unit = units.image ? ` · ${units.image}` : "";
    const kind = registration ? "Computed" : "Synthetic";
    return [`${kind}${method ? ` · ${method}` : ""}${unit}`, "Not for clinical use"];
  }

  drawPoint(pane, path, time) {
    const { state, model } = this;
    const { point } = state;
    if (pane.side === "source") {
      const { toSource } = model.correspondence;
      if (state.show.path) overlays.drawPath(pane, [...path].reverse().map((p) => apply(toSource, p)));
      overlays.drawCross(pane, point.source, state.pinned);
      return;
    }
    if (state.show.path) overlays.drawPath(pane, path);
    const place = time < 1 ? model.correspondence.onFrame(path, time) : point.target;
    overlays.drawCross(pane, place, state.pinned);
  }
}

function limited(zoom) {
  return Math.min(ZOOMS[1], Math.max(ZOOMS[0], zoom));
}

/** Whether one window suits both images. */
function alike({ source, image }) {
  const overlap = Math.min(source[1], image[1]) - Math.max(source[0], image[0]);
  return overlap > 0.6 * Math.max(source[1] - source[0], image[1] - image[0]);
}
