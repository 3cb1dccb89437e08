// Use a page in Firefox over WebDriver BiDi, and print what was seen as JSON.
//
//     node tests/viewer/firefox.mjs FIREFOX PAGE.html FOLDER_FOR_SCREENSHOTS
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import puppeteer from "puppeteer-core";

const READY = "Boolean(window.medtrace?.complete) && !document.getElementById('message').textContent";
const COLORS = `() => medtrace.shown.map((pane) => {
    const { width, height } = pane.canvas;
    const { data } = pane.context.getImageData(0, 0, width, height);
    const seen = new Set();
    for (let place = 0; place < data.length; place += 4 * 97) seen.add(data[place]);
    return seen.size;
})`;

async function until(page, condition) {
    for (let attempt = 0; attempt < 400; attempt++) {
        if (await page.evaluate(condition)) return;
        await pause(50);
    }
    throw new Error(`not met: ${condition}`);
}

async function used(page, url, folder) {
    const seen = {};
    await page.setViewport({ width: 1366, height: 768 });
    await page.goto(url);
    await until(page, READY);
    seen.agent = await page.evaluate("navigator.userAgent");
    seen.panes = await page.evaluate("medtrace.shown.map((pane) => pane.key)");
    seen.colors = await page.evaluate(`(${COLORS})()`);
    seen.sentence = await page.evaluate("document.getElementById('sentence').textContent");
    const box = await page.evaluate(`(() => {
        const pane = medtrace.panes.source, box = pane.canvas.getBoundingClientRect();
        const [x, y] = pane.voxelToScreen([16, 12, 0]);
        return [box.left + x, box.top + y];
    })()`);
    await page.mouse.click(...box);
    await pause(200);
    seen.clicked = await page.evaluate("[medtrace.state.point.source, medtrace.state.point.target]");
    await page.screenshot({ path: `${folder}/slice.png` });
    await page.keyboard.press("c");
    seen.certificate = await page.evaluate("document.getElementById('certificate-words').textContent");
    await page.keyboard.press("Escape");
    await page.select("#case", "1");
    await until(page, "medtrace.number === 1 && medtrace.model.description.name && medtrace.complete");
    await page.keyboard.press("4");
    await pause(300);
    seen.planes = await page.evaluate("medtrace.shown.map((pane) => pane.key)");
    await page.screenshot({ path: `${folder}/planes.png` });
    await page.select("#case", "2");
    await until(page, "medtrace.number === 2 && medtrace.model.description.name && medtrace.complete");
    seen.photograph = await page.evaluate("document.getElementById('readout').textContent");
    seen.wide = await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth");
    return seen;
}

const [, , executablePath, url, folder] = process.argv;
const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true });
try {
    const page = await browser.newPage();
    const said = [];
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => said.push(String(error)));
    const seen = await used(page, url, folder);
    process.stdout.write(JSON.stringify({ ...seen, said }));
} finally {
    await browser.close();
}
