// Opens a page in headless Chromium as its readers would, and prints what was seen there as JSON.
// Usage: node look.js CHROMIUM PAGE WIDTH HEIGHT light|dark
"use strict";
const {chromium} = require("playwright-core");
const fs = require("fs");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

(async () => {
  const [, , executablePath, file, width, height, colorScheme] = process.argv;
  // Tests may run as root in a container, where Chromium can not make its sandbox.
  const browser = await chromium.launch({executablePath, args: ["--no-sandbox"]});
  const seen = {problems: [], requests: []};
  // What axe-core adds to a page is no part of it: its own page, without the policy.
  const watch = (page) => {
    page.on("console", (message) => seen.problems.push(message.type() + ": " + message.text()));
    page.on("pageerror", (error) => seen.problems.push(String(error)));
    page.on("dialog", (dialog) => { seen.problems.push("dialog: " + dialog.message()); dialog.dismiss(); });
    page.on("request", (request) => seen.requests.push(request.url()));
  };
  const options = {viewport: {width: Number(width), height: Number(height)}, colorScheme};
  const page = await browser.newPage(options);
  watch(page);
  await page.goto("file://" + file);
  await page.waitForSelector("html[data-ready=true]", {state: "attached"});
  seen.ready = await page.evaluate(() => performance.now());
  seen.overflows = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);

  const rows = () => page.locator("#rows tr").count();
  seen.rows = await rows();
  seen.boxes = await page.locator("#canvas .node").count();
  seen.bars = await page.locator("#chart .span").count();
  seen.critical = await page.locator("#chart .span.critical").count();

  // A click on a box shows its details. Those in the way of the mouse are clicked as a reader would: after "Fit".
  await page.locator("#zoom-fit").click();
  await page.locator("#canvas .node", {hasText: "evil"}).first().locator(".frame").click({force: true});
  seen.details = await page.locator("#details").innerText();
  await page.keyboard.press("Escape");
  seen.closed = await page.locator("#details").isHidden();

  // A click on a box of several tasks has the table show these.
  const view = await page.locator("#view").inputValue();
  await page.locator("#view").selectOption("functions");
  await page.locator("#zoom-fit").click();
  await page.locator("#canvas .node", {hasText: "fetch"}).first().locator(".frame").click({force: true});
  seen.box = await page.locator("#found").innerText();
  await page.locator("#filter").fill("");
  await page.locator("#view").selectOption(view);

  // Details with the keyboard alone, from the table.
  await page.locator("#rows .link", {hasText: "flaky"}).first().focus();
  await page.keyboard.press("Enter");
  seen.keyboard = await page.locator("#details").innerText();
  seen.focused = await page.evaluate(() => document.activeElement.id);
  await page.keyboard.press("Escape");
  seen.returned = await page.evaluate(() => document.activeElement.textContent);

  await page.keyboard.press("/");
  await page.keyboard.type("FLAKY");
  seen.found = await page.locator("#rows .link").allInnerTexts();
  await page.locator("#filter").fill("");
  await page.locator("#states button", {hasText: "failed"}).click();
  seen.failed = await page.locator("#rows .link").allInnerTexts();
  await page.locator("#states button", {hasText: "failed"}).click();

  await page.locator("#sort-seconds").click();
  await page.locator("#sort-seconds").click();
  seen.slowest = await page.locator("#rows .link").first().innerText();
  seen.sorted = await page.locator("#column-seconds").getAttribute("aria-sort");

  await page.locator("#canvas").focus();
  const before = await page.locator("#canvas svg > g").getAttribute("transform");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("+");
  seen.panned = before !== await page.locator("#canvas svg > g").getAttribute("transform");
  seen.pwned = await page.evaluate(() => window.pwned === undefined ? null : window.pwned);

  // As it was left, after it has loaded itself again.
  await page.locator("#filter").fill("flaky");
  await page.locator("#rows .link").first().click();
  await page.locator("#filter").blur();
  await page.reload();
  await page.waitForSelector("html[data-ready=true]", {state: "attached"});
  seen.again = {filter: await page.locator("#filter").inputValue(), title: await page.locator("#details-title").innerText()};

  await page.locator("#filter").fill("");
  // Chosen when there were such tasks.
  await page.evaluate(() => history.replaceState(null, "", "#" + encodeURIComponent(JSON.stringify({states: ["running"]}))));
  await page.reload();
  await page.waitForSelector("html[data-ready=true]", {state: "attached"});
  seen.stale = await page.locator("#found").innerText();
  await page.emulateMedia({media: "print"});
  seen.printed = {
    controls: await page.locator("#controls").isVisible(),
    errors: await page.locator("#failed pre").first().isVisible(),
    rows: await rows(),
  };
  await page.close();

  // With the details open, and without the policy, which keeps axe-core out as it does everybody.
  const context = await browser.newContext({...options, bypassCSP: true});
  const other = await context.newPage();
  await other.goto("file://" + file);
  await other.waitForSelector("html[data-ready=true]", {state: "attached"});
  await other.locator("#failed .link").first().click();
  await other.evaluate(axe);
  const result = await other.evaluate(() => window.axe.run());
  seen.axe = result.violations.filter((one) => ["serious", "critical"].includes(one.impact)).map((one) => one.id + ": " + one.nodes.map((node) => node.html.slice(0, 200) + " " + node.failureSummary).join(" | "));
  await browser.close();
  console.log(JSON.stringify(seen));
})().catch((error) => { console.error(error); process.exit(1); });
