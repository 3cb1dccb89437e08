// The list of regions and the form of scores.

import { byId, element } from "./elements.js";
import { QUESTIONS, SCALE, Scores, WHOLE, measureRegion } from "./scores.js";

export function buildForm(viewer) {
  const form = new Form(viewer);
  viewer.addEventListener("case", () => form.show());
  return form;
}

class Form {
  constructor(viewer) {
    this.viewer = viewer;
    this.scores = new Scores();
    byId("scale").textContent = SCALE;
    for (const [name, question] of Object.entries(QUESTIONS)) byId("questions").append(this.question(name, question));
    byId("scored").addEventListener("change", () => this.showScores());
    byId("comment").addEventListener("input", (event) => this.scores.set(this.number, this.scored, "comment", event.target.value));
    byId("save-json").addEventListener("click", () => this.save("json"));
    byId("save-csv").addEventListener("click", () => this.save("csv"));
    byId("scores").addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("beforeunload", (event) => this.scores.saved || event.preventDefault());
  }

  get number() {
    return this.viewer.number;
  }

  /** The region whose scores are shown; null for the whole image. */
  get scored() {
    return this.viewer.caseRegions.find((region) => String(region.id) === byId("scored").value) ?? null;
  }

  question(name, question) {
    const fieldset = element("fieldset", {}, element("legend", {}, name, element("small", { textContent: question })));
    for (let score = 1; score <= 5; score++) {
      const radio = element("input", { type: "radio", name: `score-${name}`, value: score });
      radio.addEventListener("change", () => this.scores.set(this.number, this.scored, name, score));
      fieldset.append(element("label", {}, radio, String(score)));
    }
    return fieldset;
  }

  add(region) {
    this.viewer.caseRegions.push(measureRegion(this.viewer.model, region));
    this.scores.saved = false;
    this.show();
    byId("scored").value = region.id;
    this.showScores();
    this.viewer.show("regions", true);
  }

  remove(region) {
    this.viewer.caseRegions.splice(this.viewer.caseRegions.indexOf(region), 1);
    this.scores.entries.delete(this.scores.key(this.number, region));
    this.show();
    this.viewer.update();
  }

  show() {
    const regions = this.viewer.caseRegions;
    byId("region-hint").hidden = regions.length > 0;
    byId("regions").tBodies[0].replaceChildren(...regions.map((region) => this.row(region)));
    const choices = [element("option", { value: 0, textContent: WHOLE })];
    for (const { id, name } of regions) choices.push(element("option", { value: id, textContent: name }));
    byId("scored").replaceChildren(...choices);
    this.showScores();
  }

  row(region) {
    const { before, after, unit, change } = region.size;
    const swatch = element("i");
    swatch.style.background = region.color;
    const name = element("td", {}, swatch, ` ${region.name}`);
    const sign = change > 0 ? "+" : "";
    const size = element("td", { textContent: `${before.toFixed(1)} → ${after.toFixed(1)} ${unit} (${sign}${change.toFixed(1)} %)` });
    const remove = element("button", { type: "button", textContent: "×", title: `Remove ${region.name}` });
    remove.addEventListener("click", () => this.remove(region));
    const row = element("tr", { title: `drawn on the ${this.viewer.model.names[region.side]}` }, name, size, element("td", {}, remove));
    row.dataset.region = region.id;
    return row;
  }

  showScores() {
    const entry = this.scores.get(this.number, this.scored);
    for (const name of Object.keys(QUESTIONS)) {
      for (const radio of document.getElementsByName(`score-${name}`)) radio.checked = Number(radio.value) === entry[name];
    }
    byId("comment").value = entry.comment ?? "";
  }

  save(kind) {
    const reader = byId("reader").value.trim();
    const content = kind === "json" ? this.scores.json(this.viewer, reader) : this.scores.csv(this.viewer, reader);
    this.scores.save(`scores.${kind}`, kind === "json" ? "application/json" : "text/csv", content);
  }
}
