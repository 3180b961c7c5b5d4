"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("facts").textContent);
const tasks = data.tasks;
const SVG = "http://www.w3.org/2000/svg";
const SIGNS = {success: "✓", reused: "=", failed: "✗", crashed: "✗", "timed out": "⌛\uFE0E", interrupted: "!", blocked: "⊘", skipped: "–", pending: "·", running: "▸", retrying: "↻", mixed: "±"};
const BAD = new Set(["failed", "crashed", "timed out", "interrupted"]);
const OPEN = new Set(["pending", "running", "retrying"]);
const FIRST_ROWS = 300;

// Everything is made of text and elements; nothing is ever parsed as markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
function draw(tag, attributes = {}, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}
const css = (state) => "s-" + state.replace(" ", "-");
const count = (number, noun) => number.toLocaleString("en") + " " + noun + (number === 1 ? "" : "s");
function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.0995) return Math.round(seconds * 1000) + " ms";
  if (seconds < 59.95) return seconds.toFixed(seconds < 9.995 ? 2 : 1) + " s";
  const whole = Math.round(seconds);
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60, rest = String(whole % 60).padStart(2, "0");
  return hours ? hours + " h " + String(minutes).padStart(2, "0") + " min" : minutes + " min " + rest + " s";
}
const cut = (text, longest) => text.length > longest ? text.slice(0, longest - 1) + "…" : text;
const time = (at) => new Date(at * 1000).toLocaleString();

// What is derived once.
const now = data.ended ? data.last : data.written;
const onPath = new Set(data.path);
const severalFiles = new Set(tasks.map((task) => task.file)).size > 1;
const called = (task) => severalFiles && task.file ? task.file + "::" + task.name : task.name;
tasks.forEach((task, index) => {
  task.index = index;
  task.attempts = task.attempts || [];
  task.needs = task.needs || [];
  task.feeds = [];
  const last = task.attempts[task.attempts.length - 1];
  task.began = last ? last.began : null;
  task.seconds = last ? (last.ended === null ? now : last.ended) - last.began : null;
  task.change = task.before && task.seconds !== null && last.ended !== null ? task.seconds / task.before : null;
  task.worker = last && last.worker || "";
  // What it is called is what a box of the graph seeks.
  task.sought = [task.id, called(task), task.state, task.because || "", task.worker].join("\n").toLowerCase();
});
for (const task of tasks) for (const need of task.needs) tasks[need].feeds.push(task.index);
const instances = new Map();
for (const task of tasks) if (task.instance_of !== undefined) {
  if (!instances.has(task.instance_of)) instances.set(task.instance_of, []);
  instances.get(task.instance_of).push(task.index);
}

// What the reader has chosen. It is kept in the address, so that it outlives a refresh.
const choice = {task: null, filter: "", states: [], sort: "", down: false, all: false, view: "", pan: null, wide: 1, live: true};
let focus = "", scrolled = null;
try {
  const kept = JSON.parse(decodeURIComponent(location.hash.slice(1)));
  for (const name of Object.keys(choice)) if (typeof kept[name] === typeof choice[name] || choice[name] === null) choice[name] = kept[name] === undefined ? choice[name] : kept[name];
  focus = String(kept.focus || "");
  scrolled = Array.isArray(kept.scrolled) ? kept.scrolled : null;
} catch { /* Nothing is kept, or somebody has typed something else there. */ }
if (!Array.isArray(choice.states)) choice.states = [];
if (!Array.isArray(choice.pan) || choice.pan.length !== 3 || !choice.pan.every(Number.isFinite)) choice.pan = null;
const byId = new Map(tasks.map((task) => [task.id, task]));
let chosen = typeof choice.task === "string" ? byId.get(choice.task) : undefined;
function keep(more = {}) {
  const kept = {...choice, ...more};
  try { history.replaceState(null, "", "#" + encodeURIComponent(JSON.stringify(kept))); } catch { /* Too often in a short time. */ }
}

// The head.
const counts = {};
for (const task of tasks) counts[task.state] = (counts[task.state] || 0) + 1;
// A state that no task is in any more has no button with which it could be given up.
choice.states = choice.states.filter((state) => counts[state]);
const done = tasks.filter((task) => !OPEN.has(task.state)).length;
const failures = tasks.filter((task) => BAD.has(task.state) && !task.expected), bad = failures.length;
const told = (task) => task.state + (task.expected ? " as expected" : "");
const expected = tasks.filter((task) => task.expected).length;
$("title").textContent = data.title;
const how = data.stopped ? "stopped: " + data.stopped : data.ended ? "finished" : data.refresh ? "running" : "broken off";
$("summary").textContent = how + " · " + done.toLocaleString("en") + " of " + count(tasks.length, "task") + " done" + (bad ? " · " + bad.toLocaleString("en") + " failed" : "") + (expected ? " · " + expected.toLocaleString("en") + " failed as expected" : "") + " · " + span(Math.max(now - data.began, 0));
$("meta").textContent = "began " + time(data.began) + (data.ended ? "" : ", as of " + time(data.written)) + (data.command ? " · " + data.command : "");
for (const state of data.states) {
  if (!counts[state]) continue;
  const part = make("span", {class: css(state)});
  part.style.flexGrow = counts[state];
  $("bar").append(part);
  const button = make("button", {type: "button", id: "state-" + css(state), "aria-pressed": String(choice.states.includes(state)), onclick: () => {
    choice.states = choice.states.includes(state) ? choice.states.filter((other) => other !== state) : [...choice.states, state];
    button.setAttribute("aria-pressed", String(choice.states.includes(state)));
    refilter();
  }}, make("span", {class: "glyph state " + css(state), "aria-hidden": "true"}, SIGNS[state]), " " + counts[state].toLocaleString("en") + " " + state);
  $("states").append(button);
}
$("filter").value = choice.filter;
$("filter").addEventListener("input", () => { choice.filter = $("filter").value; refilter(); });

// What failed: each failure with how many it has blocked.
function link(task, prefix) {
  return make("button", {type: "button", class: "link", id: (prefix || "task") + "-" + task.index, onclick: () => chooseTask(task, true)}, called(task));
}
$("failures").hidden = !failures.length;
for (const task of failures.slice(0, 100)) {
  const last = task.attempts[task.attempts.length - 1];
  $("failed").append(make("li", {class: css(task.state)}, link(task, "failed"), " " + task.state + (task.because ? ": " + task.because : "") + (task.blocks ? " · blocks " + count(task.blocks, "task") : ""),
    last && last.error ? make("pre", {}, cut(last.error, 4000)) : null));
}
if (failures.length > 100) $("failed").append(make("li", {}, "and " + (failures.length - 100).toLocaleString("en") + " more: filter by state below"));

// The table.
const COLUMNS = [
  ["name", "Task", (task) => called(task)],
  ["state", "State", (task) => data.states.indexOf(task.state)],
  ["seconds", "Took", (task) => task.seconds],
  ["before", "Before", (task) => task.before === undefined ? null : task.before],
  ["attempts", "Attempts", (task) => task.attempts.length],
  ["worker", "Worker", (task) => task.worker],
  ["began", "Began after", (task) => task.began],
  ["because", "Reason", (task) => task.because || ""],
];
const NUMBERS = new Set(["seconds", "before", "attempts", "began"]);
const workersKnown = tasks.some((task) => task.worker), beforeKnown = tasks.some((task) => task.before !== undefined);
const reasonsKnown = tasks.some((task) => task.because);
const columns = COLUMNS.filter(([key]) => (key !== "worker" || workersKnown) && (key !== "before" || beforeKnown) && (key !== "because" || reasonsKnown));
for (const [key, title] of columns) {
  $("head").append(make("th", {scope: "col", id: "column-" + key, class: NUMBERS.has(key) ? "number" : false}, make("button", {type: "button", id: "sort-" + key, onclick: () => {
    choice.down = choice.sort === key && !choice.down;
    choice.sort = key;
    refilter();
  }}, title)));
}
let shown = tasks;
const matches = new Set();
function refilter() {
  const words = choice.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const states = new Set(choice.states);
  matches.clear();
  shown = tasks.filter((task) => (!states.size || states.has(task.state)) && words.every((word) => task.sought.includes(word)));
  for (const task of shown) matches.add(task.index);
  const column = COLUMNS.find(([key]) => key === choice.sort);
  if (column) {
    const sign = choice.down ? -1 : 1, value = column[2];
    shown = [...shown].sort((a, b) => {
      const left = value(a), right = value(b);
      // What is not known comes last, whichever way.
      if (left === null || right === null) return (left === null) - (right === null) || a.index - b.index;
      return sign * (typeof left === "string" ? left.localeCompare(right, "en", {numeric: true}) : left - right) || a.index - b.index;
    });
  }
  for (const [key] of columns) {
    if (choice.sort === key) $("column-" + key).setAttribute("aria-sort", choice.down ? "descending" : "ascending");
    else $("column-" + key).removeAttribute("aria-sort");
  }
  const partly = matches.size < tasks.length;
  $("found").textContent = partly ? count(matches.size, "task") + " found" : "";
  fill(choice.all ? Infinity : FIRST_ROWS);
  dim(partly);
  keep();
}
function fill(most) {
  $("rows").replaceChildren(...shown.slice(0, most).map(row));
  $("more").hidden = shown.length <= most;
  $("more").textContent = "Show all " + shown.length.toLocaleString("en") + " tasks";
}
$("more").addEventListener("click", () => { choice.all = true; fill(Infinity); keep(); });
function row(task) {
  const cells = {
    name: () => make("td", {class: "name"}, onPath.has(task.index) ? make("span", {class: "hint", title: "on the critical path"}, "◆ ") : null, link(task)),
    state: () => make("td", {class: "state " + css(task.state)}, make("span", {class: "glyph", "aria-hidden": "true"}, SIGNS[task.state]), " " + told(task)),
    seconds: () => make("td", {class: "number"}, span(task.seconds)),
    before: () => make("td", {class: "number"}, task.before === undefined ? "" : span(task.before) + (task.change ? " (" + (task.change >= 1 ? "×" + task.change.toFixed(1) : "÷" + (1 / task.change).toFixed(1)) + ")" : "")),
    attempts: () => make("td", {class: "number"}, task.attempts.length ? String(task.attempts.length) : ""),
    worker: () => make("td", {class: "worker"}, task.worker),
    began: () => make("td", {class: "number"}, task.began === null ? "" : span(Math.max(task.began - data.began, 0))),
    because: () => make("td", {class: "reason"}, cut(task.because || "", 200)),
  };
  return make("tr", {"data-index": task.index, class: chosen === task ? "chosen" : false, onclick: (event) => { if (!event.target.closest("button")) chooseTask(task, false); }}, ...columns.map(([key]) => cells[key]()));
}

// The details of one task.
function section(title, ...children) { return [make("h3", {}, title), ...children]; }
function names(indices, title, prefix) {
  if (!indices.length) return [];
  const list = indices.slice(0, 50).map((index) => make("li", {}, link(tasks[index], prefix), " ", make("span", {class: "state " + css(tasks[index].state)}, tasks[index].state)));
  if (indices.length > 50) list.push(make("li", {}, "and " + (indices.length - 50).toLocaleString("en") + " more"));
  return section(title + " (" + indices.length.toLocaleString("en") + ")", make("ul", {}, ...list));
}
function facts(pairs) {
  const list = make("dl");
  for (const [name, value] of pairs) if (value !== "" && value !== null && value !== undefined) list.append(make("dt", {}, name), make("dd", {}, value));
  return list;
}
function scrolling(text, name) { return make("pre", {tabindex: "0", role: "region", "aria-label": name}, text); }
function attempt(one, task) {
  const took = (one.ended === null ? now : one.ended) - one.began;
  const parts = [make("h3", {}, "Attempt " + one.number + ": ", make("span", {class: "state " + css(one.state)}, one.state)),
    facts([["took", span(took) + (one.ended === null ? " so far" : "")], ["began", time(one.began)], ["worker", one.worker || ""], ["processor", span(one.cpu)], ["memory", one.memory ? (one.memory / 1048576).toFixed(0) + " MiB at most" : ""], ["reason", one.because !== task.because && one.because || ""]])];
  if (one.error) parts.push(scrolling(one.error, "Error of attempt " + one.number));
  for (const [name, text] of one.sections || []) parts.push(make("details", {open: text.length < 4000}, make("summary", {}, name), scrolling(text, name)));
  return parts;
}
function showDetails() {
  const aside = $("details"), task = chosen;
  aside.hidden = !task;
  if (!task) { aside.replaceChildren(); return; }
  const parameters = Object.entries(task.parameters || {});
  aside.replaceChildren(
    make("header", {}, make("h2", {id: "details-title"}, task.name), make("button", {type: "button", id: "close", "aria-label": "Close the details", onclick: () => chooseTask(null, false)}, "Close")),
    facts([
      ["state", make("span", {class: "state " + css(task.state)}, SIGNS[task.state] + " " + told(task))],
      ["reason", task.because],
      ["goes back to", task.cause === undefined ? "" : link(tasks[task.cause], "cause")],
      ["took", span(task.seconds)],
      ["took before", task.before === undefined ? "" : span(task.before) + (task.change ? ", now " + (task.change * 100).toFixed(0) + " %" : "")],
      ["critical path", onPath.has(task.index) ? "yes" : ""],
      ["where", task.file + (task.line ? ":" + task.line : "")],
      ["id", task.id],
      ["runs when", task.when === "all_success" ? "" : task.when],
      ["instance of", task.instance_of === undefined ? "" : link(tasks[task.instance_of], "mapped")],
    ]),
    ...(parameters.length ? section("Parameters", facts(parameters)) : []),
    ...(task.result === undefined ? [] : section("Result", scrolling(task.result, "Result"))),
    // The last one first: it is what counts.
    ...[...task.attempts].reverse().flatMap((one) => attempt(one, task)),
    ...names(task.needs, "Needs", "needs"),
    ...names(task.feeds, "Needed by", "feeds"),
    ...names(instances.get(task.index) || [], "Instances", "instance"),
  );
  aside.scrollTop = 0;
}
function chooseTask(task, moves) {
  const before = chosen;
  chosen = task || undefined;
  choice.task = chosen ? chosen.id : null;
  showDetails();
  for (const element of document.querySelectorAll(".chosen")) element.classList.remove("chosen");
  if (chosen) for (const element of document.querySelectorAll("[data-index='" + chosen.index + "']")) element.classList.add("chosen");
  if (graph) graph.choose(moves);
  if (chosen && moves) $("details").focus({preventScroll: true});
  if (!chosen && before) { const back = $("task-" + before.index); if (back) back.focus({preventScroll: true}); }
  keep();
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen) chooseTask(null, false);
  if (event.key === "/" && document.activeElement !== $("filter") && !event.ctrlKey && !event.metaKey) { event.preventDefault(); $("filter").focus(); }
});
function place() {
  const head = document.querySelector("header"), aside = $("details");
  const top = getComputedStyle(head).position === "sticky" ? head.offsetHeight : 0;
  aside.style.top = top + "px";
  aside.style.maxHeight = "calc(100vh - " + top + "px)";
}

// When each attempt ran: a lane for each worker, more where one did several things at a time.
function lanes() {
  const groups = new Map();
  for (const task of tasks) for (const one of task.attempts) {
    const end = one.ended === null ? now : one.ended;
    const name = one.worker || (one.ended === null && workersKnown ? "running" : "");
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push({task, one, from: one.began, to: Math.max(end, one.began)});
  }
  const found = [];
  for (const name of [...groups.keys()].sort((a, b) => a.localeCompare(b, "en", {numeric: true}))) {
    const own = [];
    // When an attempt has ended is known a little late: what seems to overlap a bit came one after the other.
    const late = name ? Math.max(0.02, (now - data.began) * 0.003) : 0.0011;
    for (const bar of groups.get(name).sort((a, b) => a.from - b.from || a.to - b.to)) {
      let lane = own.find((other) => other.until <= bar.from + late);
      if (!lane) own.push(lane = {until: 0, bars: []});
      lane.until = bar.to;
      lane.bars.push(bar);
    }
    own.forEach((lane, number) => found.push({name: name ? (number ? "" : name) : "slot " + (number + 1), bars: lane.bars}));
  }
  return found;
}
const allLanes = lanes();
let bars = [];
function chart() {
  const box = $("chart"), right = 14, top = 22;
  const left = Math.min(Math.max(...allLanes.map((lane) => lane.name.length), 6) * 6.5 + 14, 170);
  const height = allLanes.length > 40 ? 9 : allLanes.length > 16 ? 14 : 22;
  const width = Math.max((box.clientWidth || 900) * choice.wide, 300);
  const whole = Math.max(now - data.began, 0.001), scale = (width - left - right) / whole;
  const svg = draw("svg", {width, height: top + allLanes.length * height + 8, viewBox: "0 0 " + width + " " + (top + allLanes.length * height + 8)});
  const steps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400];
  const step = steps.find((each) => each * scale > 70) || 604800;
  for (let at = 0; at <= whole && at / step < 500; at += step) {
    const x = left + at * scale;
    svg.append(draw("line", {class: "axis", x1: x, x2: x, y1: 16, y2: top + allLanes.length * height}), draw("text", {class: "quiet", x: x + 2, y: 12}, at ? span(at) : "0"));
  }
  bars = [];
  allLanes.forEach((lane, number) => {
    const y = top + number * height;
    if (lane.name && (height > 12 || number % 2 === 0)) svg.append(draw("text", {class: "quiet", x: 4, y: y + height / 2 + 4}, cut(lane.name, 24)));
    for (const bar of lane.bars) {
      const x = left + Math.max(bar.from - data.began, 0) * scale, wide = Math.max((bar.to - bar.from) * scale, 1.5);
      const rect = draw("rect", {class: "span " + css(bar.one.state) + (bar.one.state === "retrying" ? " retried" : "") + (onPath.has(bar.task.index) ? " critical" : "") + (chosen === bar.task ? " chosen" : ""), x, y: y + 1, width: wide, height: height - 3, "data-index": bar.task.index});
      rect.append(draw("title", {}, called(bar.task) + ", attempt " + bar.one.number + ": " + bar.one.state + ", " + span(bar.to - bar.from)));
      bars.push([rect, bar.task]);
      svg.append(rect);
    }
  });
  box.replaceChildren(svg);
  dim(matches.size < tasks.length);
}
$("chart").addEventListener("click", (event) => {
  const rect = event.target.closest("[data-index]");
  if (rect) chooseTask(tasks[Number(rect.dataset.index)], false);
});
$("wider").addEventListener("click", () => { choice.wide = Math.min(choice.wide * 2, 64); chart(); keep(); });
$("narrower").addEventListener("click", () => { choice.wide = Math.max(choice.wide / 2, 1); chart(); keep(); });
$("timeline").hidden = !allLanes.length;
if (data.path.length) {
  const seconds = data.path.reduce((sum, index) => sum + (tasks[index].seconds || 0), 0);
  $("path").textContent = "Outlined: the critical path, " + count(data.path.length, "task") + " that took " + span(seconds) + " (◆ in the table)";
}
function dim(partly) {
  for (const [rect, task] of bars) rect.classList.toggle("dim", partly && !matches.has(task.index));
  if (graph) graph.dim(partly);
}

let graph = null;

// The graph: boxes and ways were placed when the page was written.
function makeGraph() {
  const canvas = $("canvas"), select = $("view");
  const WORDS = {tasks: "task", functions: "function", files: "file"};
  for (const view of data.views) select.append(make("option", {value: view.name}, WORDS[view.name] + " (" + view.nodes.length.toLocaleString("en") + ")"));
  // As many boxes as can be read: where tasks are too many, what they are variants of.
  if (!data.views.some((view) => view.name === choice.view)) choice.view = (data.views.find((view) => view.nodes.length <= 300) || data.views[0]).name;
  let view = data.views[0], svg, world, near, critical, boxes = [], pan = {x: 0, y: 0, zoom: 1}, width = 1, height = 1;
  const members = (node, number) => node[5].length ? node[5] : [number];
  const common = (indices) => {
    const states = new Set(indices.map((index) => tasks[index].state));
    if (states.size === 1) return [...states][0];
    return ["failed", "crashed", "timed out", "interrupted", "running", "retrying", "blocked"].find((state) => states.has(state)) || "mixed";
  };
  function show(name) {
    view = data.views.find((each) => each.name === name);
    select.value = name;
    svg = draw("svg", {"aria-hidden": "true"});
    world = draw("g");
    near = draw("path", {class: "edges near"});
    critical = draw("path", {class: "edges critical"});
    const steps = new Set();
    if (name === "tasks") for (let at = 1; at < data.path.length; at++) {
      const from = data.path[at - 1], to = data.path[at], gathers = tasks[from].instance_of;
      steps.add(from + " " + to);
      // By way of the mapped task that it is an instance of.
      if (gathers !== undefined) steps.add(from + " " + gathers).add(gathers + " " + to);
    }
    critical.setAttribute("d", view.edges.filter(([from, to]) => steps.has(from + " " + to)).map((edge) => edge[2]).join(""));
    world.append(draw("path", {class: "edges", d: view.edges.map((edge) => edge[2]).join("")}), critical, near);
    boxes = view.nodes.map((node, number) => {
      const [x, y, wide, high, label] = node, own = members(node, number), state = common(own);
      const box = draw("g", {class: "node " + css(state), transform: "translate(" + x + " " + y + ")", "data-node": number});
      const text = own.length > 1 ? label + " ×" + own.length : label;
      box.append(draw("rect", {class: "frame", width: wide, height: high}), draw("rect", {class: "side", width: 5, height: high}),
        draw("text", {class: "sign", x: 10, y: high / 2 + 4}, SIGNS[state]), draw("text", {x: 26, y: high / 2 + 4}, cut(text, Math.floor((wide - 30) / 7))));
      const parts = {};
      for (const index of own) parts[tasks[index].state] = (parts[tasks[index].state] || 0) + 1;
      box.append(draw("title", {}, text + ": " + Object.entries(parts).map(([each, many]) => (own.length > 1 ? many + " " : "") + each).join(", ")));
      world.append(box);
      return box;
    });
    svg.append(world);
    canvas.replaceChildren(svg);
  }
  function measure() { width = canvas.clientWidth || 800; height = canvas.clientHeight || 400; }
  function move() {
    world.setAttribute("transform", "translate(" + pan.x + " " + pan.y + ") scale(" + pan.zoom + ")");
    choice.pan = [pan.x, pan.y, pan.zoom].map((number) => Math.round(number * 1000) / 1000);
  }
  function fit() {
    measure();
    const [wide, high] = view.size;
    const zoom = Math.min(width / wide, height / high, 1.25);
    pan = {zoom, x: (width - wide * zoom) / 2, y: (height - high * zoom) / 2};
    move();
  }
  // What opens is to be read: a large graph begins at its upper left, in a size for that.
  function open() {
    fit();
    const [wide, high] = view.size;
    if (pan.zoom < 0.45) {
      const zoom = 0.7;
      pan = {zoom, x: wide * zoom > width ? 0 : (width - wide * zoom) / 2, y: high * zoom > height ? (height - high * zoom) / 2 : 0};
      if (high * zoom > height) { const first = view.nodes[0]; pan.y = height / 2 - (first[1] + first[3] / 2) * zoom; }
      move();
    }
  }
  function zoomAt(factor, x = width / 2, y = height / 2) {
    const zoom = Math.min(Math.max(pan.zoom * factor, 0.02), 4), real = zoom / pan.zoom;
    pan = {zoom, x: x - (x - pan.x) * real, y: y - (y - pan.y) * real};
    move();
  }
  function centre(node) {
    measure();
    if (pan.zoom < 0.5) pan.zoom = 0.8;
    pan.x = width / 2 - (node[0] + node[2] / 2) * pan.zoom;
    pan.y = height / 2 - (node[1] + node[3] / 2) * pan.zoom;
    move();
  }
  const nodeOf = (index) => view.nodes.findIndex((node, number) => node[5].length ? node[5].includes(index) : number === index);
  function choose(moves) {
    for (const box of boxes) box.classList.remove("chosen");
    near.setAttribute("d", "");
    if (!chosen) return;
    const number = nodeOf(chosen.index);
    if (number < 0) return;
    boxes[number].classList.add("chosen");
    near.setAttribute("d", view.edges.filter(([from, to]) => from === number || to === number).map((edge) => edge[2]).join(""));
    if (moves) centre(view.nodes[number]);
  }
  function dimAll(partly) {
    boxes.forEach((box, number) => box.classList.toggle("dim", partly && !members(view.nodes[number], number).some((index) => matches.has(index))));
  }
  let grip = null;
  canvas.addEventListener("pointerdown", (event) => { if (event.button === 0) grip = {x: event.clientX, y: event.clientY, from: {...pan}, moved: false}; });
  canvas.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const x = event.clientX - grip.x, y = event.clientY - grip.y;
    if (!grip.moved && Math.hypot(x, y) < 4) return;
    if (!grip.moved) { grip.moved = true; canvas.setPointerCapture(event.pointerId); canvas.classList.add("dragged"); }
    pan.x = grip.from.x + x;
    pan.y = grip.from.y + y;
    move();
  });
  const drop = () => { if (grip && grip.moved) { canvas.classList.remove("dragged"); keep(); setTimeout(() => { grip = null; }, 0); } else grip = null; };
  canvas.addEventListener("pointerup", (event) => {
    const clicked = grip && !grip.moved && event.target.closest("[data-node]");
    drop();
    if (!clicked) return;
    const number = Number(clicked.dataset.node), own = members(view.nodes[number], number);
    if (own.length === 1) { chooseTask(tasks[own[0]], false); return; }
    // All of a box: the table shows them.
    choice.filter = view.nodes[number][4];
    $("filter").value = choice.filter;
    refilter();
  });
  canvas.addEventListener("pointercancel", drop);
  canvas.addEventListener("wheel", (event) => {
    // Without Ctrl it scrolls the page, as everywhere else.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoomAt(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
    keep();
  }, {passive: false});
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60, keys = {
      ArrowLeft: () => { pan.x += step; move(); }, ArrowRight: () => { pan.x -= step; move(); },
      ArrowUp: () => { pan.y += step; move(); }, ArrowDown: () => { pan.y -= step; move(); },
      "+": () => zoomAt(1.25), "=": () => zoomAt(1.25), "-": () => zoomAt(0.8), "0": fit,
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
    keep();
  });
  $("zoom-in").addEventListener("click", () => { zoomAt(1.25); keep(); });
  $("zoom-out").addEventListener("click", () => { zoomAt(0.8); keep(); });
  $("zoom-fit").addEventListener("click", () => { fit(); keep(); });
  select.addEventListener("change", () => { choice.view = select.value; show(choice.view); open(); choose(false); dimAll(matches.size < tasks.length); keep(); });
  return {
    begin() {
      show(choice.view);
      const kept = choice.pan;
      if (kept) { measure(); pan = {x: kept[0], y: kept[1], zoom: Math.min(Math.max(kept[2], 0.02), 4)}; move(); } else open();
      choose(false);
      dimAll(matches.size < tasks.length);
    },
    choose, dim: dimAll,
    print(starts) {
      if (starts) { svg.setAttribute("viewBox", "0 0 " + view.size.join(" ")); world.removeAttribute("transform"); }
      else { svg.removeAttribute("viewBox"); move(); }
    },
  };
}
if (data.views && data.views.length && tasks.length) {
  $("graph").hidden = false;
  graph = makeGraph();
}


// A page of a run that goes on loads itself again, and is then as the reader has left it.
function reload() {
  const selecting = !document.getSelection().isCollapsed;
  if (!choice.live || selecting || document.activeElement === $("filter") || document.hidden) { setTimeout(reload, 1000); return; }
  keep({focus: document.activeElement && document.activeElement.id || "", scrolled: [scrollX, scrollY, $("details").scrollTop, $("chart").scrollLeft, $("chart").scrollTop]});
  location.reload();
}
if (data.refresh) {
  $("live").hidden = false;
  $("refresh").checked = choice.live;
  $("refresh").addEventListener("change", () => { choice.live = $("refresh").checked; keep(); });
  setTimeout(reload, data.refresh * 1000);
}

refilter();
chart();
showDetails();
place();
if (graph) graph.begin();
if (scrolled) {
  if ("scrollRestoration" in history) history.scrollRestoration = "manual";
  scrollTo(Number(scrolled[0]) || 0, Number(scrolled[1]) || 0);
  $("details").scrollTop = Number(scrolled[2]) || 0;
  $("chart").scrollTo(Number(scrolled[3]) || 0, Number(scrolled[4]) || 0);
  if (focus && $(focus)) $(focus).focus({preventScroll: true});
}
// The window has changed, or the details take some of its room.
let resized = 0, drawn = $("chart").offsetWidth;
new ResizeObserver(() => {
  if ($("chart").offsetWidth === drawn) return;
  drawn = $("chart").offsetWidth;
  cancelAnimationFrame(resized);
  resized = requestAnimationFrame(chart);
}).observe($("chart"));
addEventListener("resize", place);
// On paper there is nothing to scroll, to pan or to click.
matchMedia("print").addEventListener("change", (event) => {
  fill(event.matches || choice.all ? Infinity : FIRST_ROWS);
  if (graph) graph.print(event.matches);
});
document.documentElement.dataset.ready = "true";
})();
