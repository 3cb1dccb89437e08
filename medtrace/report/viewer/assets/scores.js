// The reader's scores, as in Plasticine's clinical study, and their files.

import { measure } from "./regions.js";

export const QUESTIONS = {
  progression: "Are generated changes in a proper position, of realistic appearance and size?",
  realism: "Is the translated image realistic?",
  traceability: "Does the translation correspond to the source?",
};
export const SCALE = "1 (best) to 5 (worst): lower is better, as in the study";
export const WHOLE = "whole image";

export class Scores {
  constructor() {
    this.entries = new Map();
    this.saved = true;
  }

  key(number, region) {
    return `${number}/${region ? region.id : 0}`;
  }

  get(number, region) {
    return this.entries.get(this.key(number, region)) ?? { comment: "" };
  }

  set(number, region, name, value) {
    this.entries.set(this.key(number, region), { ...this.get(number, region), [name]: value });
    this.saved = false;
  }

  /** Rows of all cases: the whole image where it was scored, and every region. */
  rows(viewer, reader) {
    const rows = [];
    viewer.scene.cases.forEach((description, number) => {
      const regions = viewer.regions[number];
      if (this.entries.has(this.key(number, null))) rows.push(this.row(description, number, null, reader));
      for (const region of regions) rows.push(this.row(description, number, region, reader));
    });
    return rows;
  }

  row(description, number, region, reader) {
    const { comment, ...scores } = this.get(number, region);
    const size = region?.size;
    return {
      case: description.name, method: description.method ?? "", reader,
      region: region ? region.name : WHOLE, drawn_on: region ? region.side : "",
      before: size?.before ?? null, after: size?.after ?? null, unit: size?.unit ?? "", change_percent: size?.change ?? null,
      ...Object.fromEntries(Object.keys(QUESTIONS).map((name) => [name, scores[name] ?? null])),
      comment: comment ?? "",
    };
  }

  json(viewer, reader) {
    const outlines = viewer.scene.cases.map((description, number) => ({
      case: description.name,
      regions: viewer.regions[number].map(({ name, side, planeName, index, depth, mm }) => (
        { name, drawn_on: side, plane: planeName, slice: index, slices: depth, outline_ras_mm: mm }
      )),
    }));
    const content = {
      medtrace: viewer.scene.medtrace, saved: new Date().toISOString(), scale: SCALE, questions: QUESTIONS,
      scores: this.rows(viewer, reader), regions: outlines.filter((entry) => entry.regions.length),
    };
    return JSON.stringify(content, null, 2);
  }

  csv(viewer, reader) {
    const rows = this.rows(viewer, reader);
    const heads = Object.keys(rows[0] ?? this.row(viewer.scene.cases[0], 0, null, reader));
    return [heads, ...rows.map((row) => heads.map((head) => row[head]))].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
  }

  save(name, kind, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: kind }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    this.saved = true;
  }
}

/** A cell that a spreadsheet does not interpret as a formula. */
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return `"${safe.replaceAll('"', '""')}"`;
}

/** Give a region its size and its outline in mm. */
export function measureRegion(model, region) {
  const plane = model.planes[region.planeName][region.side];
  const mm = region.side === "source" ? (q) => model.correspondence.sourceMm(q) : (p) => model.correspondence.targetMm(p);
  region.size = measure(model, region);
  region.mm = region.polygon.map(([u, v]) => mm(plane.toVoxel(u, v, region.index)).map((value) => Number(value.toFixed(3))));
  return region;
}
