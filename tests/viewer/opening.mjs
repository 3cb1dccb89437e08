// Seconds until a page shows its first picture, and until all of it is read, in Firefox over WebDriver BiDi, as JSON.
//
//     node tests/viewer/opening.mjs FIREFOX PAGE.html
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import puppeteer from "puppeteer-core";

const [, , executablePath, url] = process.argv;
const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true });
try {
    const page = await browser.newPage();
    await page.setViewport({ width: 1366, height: 768 });
    await page.goto(url, { timeout: 120_000 });
    const seconds = async (name) => {
        for (let attempt = 0; attempt < 600; attempt++) {
            const started = await page.evaluate((mark) => performance.getEntriesByName(mark)[0]?.startTime ?? null, name);
            if (started !== null) return started / 1000;
            await pause(100);
        }
        throw new Error(`${name}: not reached within a minute`);
    };
    process.stdout.write(JSON.stringify({ first: await seconds("first picture"), complete: await seconds("complete") }));
} finally {
    await browser.close();
}
