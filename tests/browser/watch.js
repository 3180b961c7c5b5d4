// Follows the page of a run that goes on, and prints what was seen as JSON.
// Usage: node watch.js CHROMIUM PAGE NEXT, where NEXT is what takes the place of PAGE meanwhile.
"use strict";
const {chromium} = require("playwright-core");
const fs = require("fs");

(async () => {
  const [, , executablePath, file, next] = process.argv;
  const browser = await chromium.launch({executablePath, args: ["--no-sandbox"]});
  const page = await browser.newPage({viewport: {width: 1000, height: 500}});
  await page.goto("file://" + file);
  await page.waitForSelector("html[data-ready=true]", {state: "attached"});
  const seen = {before: await page.locator("#summary").innerText(), live: await page.locator("#live").isVisible()};
  await page.locator("#rows .link", {hasText: "flaky"}).click();
  await page.locator("#sort-name").click();
  await page.evaluate(() => scrollTo(0, 200));
  fs.renameSync(next, file);
  await page.waitForFunction(() => document.getElementById("summary").textContent.startsWith("finished"));
  seen.after = await page.locator("#summary").innerText();
  seen.title = await page.locator("#details-title").innerText();
  seen.sorted = await page.locator("#column-name").getAttribute("aria-sort");
  seen.scrolled = await page.evaluate(() => scrollY);
  seen.focused = await page.evaluate(() => document.activeElement.id);
  await browser.close();
  console.log(JSON.stringify(seen));
})().catch((error) => { console.error(error); process.exit(1); });
