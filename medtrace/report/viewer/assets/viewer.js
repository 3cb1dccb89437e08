// The viewer's state, and the panes drawn from it.

import { ColorMap, shade } from "./colors.js";
import { Model } from "./model.js";
import { Pane } from "./pane.js";
import * as overlays from "./overlays.js";
import { apply } from "./affine.js";
import { MAPS, frameSlice, imageSlice, mapSlice, morphSlice, placeOf } from "./slices.js";

const PANES = { source: "source", warped: "target", image: "target", map: "target" };
const BLINK_MS = 650;
export const COLOR = "color";

export function startingState() {
  return {
    planeName: "axial", point: null, pinned: false, time: 1, playing: false, morph: false, zoom: 1, anchor: null,
    layer: "displacement", opacity: 0.65, compare: "off", rival: "warped", swipe: 0.5, blink: false,
    tool: "point", depth: 3, draft: null,
    windows: null, linkedWindows: true, channel: COLOR,
    show: { cross: true, path: true, grid: false, arrows: false, folds: true, mask: true, labels: true, regions: true },
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
      planeName: model.planes[this.state.planeName] ? this.state.planeName : "axial",
      point: model.pair("target", description.start), pinned: false, zoom: 1, anchor: null, draft: null,
      channel: this.hasColor(model) || model.channels < 2 ? COLOR : 0,
    });
    this.resetWindows();
    if (!this.layers().includes(this.state.layer)) this.state.layer = "displacement";
    for (const pane of Object.values(this.panes)) pane.forget();
    this.dispatchEvent(new Event("case"));
    this.update();
    await model.openRest(() => this.number === number && this.update());
    if (this.number === number) this.complete = true;
    performance.mark("complete");
  }

  /** Whether three channels are shown as red, green and blue. */
  hasColor(model = this.model) {
    return model.channels === 3;
  }

  /** Which channels of a volume are seen: all three as color, or one. */
  channelsOf(volume) {
    const { channel } = this.state;
    if (channel === COLOR) return volume.channels === 3 ? [0, 1, 2] : [0];
    return [Math.min(channel, volume.channels - 1)];
  }

  /** The channel that maps are about. */
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
    const known = ["displacement", "jacobian"];
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

  zoom(factor) {
    const zoom = Math.min(16, Math.max(1, this.state.zoom * factor));
    const { source, target } = this.state.point;
    this.set({ zoom, anchor: zoom === 1 ? null : { source: [...source], target: [...target] } });
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

  sliceOf(side) {
    return this.model.planes[this.state.planeName][side].slice(this.state.point[side]);
  }

  draw() {
    const { state, model } = this;
    for (const pane of Object.values(this.panes)) {
      const plane = model.planes[state.planeName][pane.side];
      const center = plane.toPage(state.anchor ? state.anchor[pane.side] : state.point[pane.side]);
      pane.layout(plane, plane.slice(state.point[pane.side]), state.zoom, center);
      pane.clear();
    }
    this.drawImages();
    const path = model.correspondence.path(state.point.target);
    for (const pane of Object.values(this.panes)) this.drawOver(pane, path);
  }

  /** A slice in gray (or color), kept until its key changes. */
  gray(pane, layer, name, volume, window, make) {
    const { state } = this;
    const channels = this.channelsOf(volume);
    const key = [this.number, state.planeName, pane.index, name, ...window, ...channels].join(" ");
    pane.image(layer, key, (rgba) => shade(make(channels), channels.length, window, rgba), state.zoom < 4);
  }

  drawImages() {
    const { source, warped, image, map } = this.panes;
    const { windows } = this.state;
    const model = this.model;
    const values = (channels) => imageSlice(model.source, source.plane, source.index, channels);
    this.gray(source, "source", "source", model.source, windows.source, values);
    this.drawFrame(warped);
    this.drawImage(image);
    this.drawComparison(image);
    this.drawImage(map);
    this.drawMap(map);
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
      const values = (channels) => imageSlice(model.truth, pane.plane, pane.index, channels);
      this.gray(pane, "rival", "truth", model.truth, state.windows.image, values);
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
    context.clearRect(0, 0, ...size);
    this.drawRival(pane);
    context.restore();
    context.fillStyle = "#ffffff";
    context.fillRect(edge - 1, 0, 2, size[1]);
  }

  drawMap(pane) {
    const { state, model } = this;
    if (!this.mapReady()) return;
    const range = model.description.ranges[state.layer];
    const colors = this.maps[MAPS[state.layer].colors];
    const channel = this.mapChannel;
    const key = [this.number, state.planeName, pane.index, state.layer, channel].join(" ");
    pane.context.globalAlpha = state.opacity;
    pane.image("map", key, (rgba) => {
      mapSlice(model, state.layer, pane.plane, pane.index, channel).forEach((value, pixel) => {
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
      for (const region of this.caseRegions) overlays.drawRegion(pane, model, region, state.planeName);
    }
    if (show.folds && model.folds && onTarget && pane.name !== "image") overlays.drawFolds(pane, model.folds);
    if (state.draft && state.draft.pane === pane) overlays.drawDraft(pane, state.draft.polygon);
    if (show.cross) this.drawPoint(pane, path, time);
    overlays.drawLetters(pane);
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

/** Whether one window suits both images. */
function alike({ source, image }) {
  const overlap = Math.min(source[1], image[1]) - Math.max(source[0], image[0]);
  return overlap > 0.6 * Math.max(source[1] - source[0], image[1] - image[0]);
}
