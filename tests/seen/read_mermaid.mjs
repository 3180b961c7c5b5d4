// Read Mermaid from standard input as Mermaid does, and print what it has understood as JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const packages = createRequire(`${process.argv[2]}/`);
const { JSDOM } = packages("jsdom");
const { window } = new JSDOM("<body></body>");
globalThis.window = window;
globalThis.document = window.document;
const { default: mermaid } = await import(pathToFileURL(`${process.argv[2]}/mermaid/dist/mermaid.core.mjs`));

const text = readFileSync(0, "utf-8");
mermaid.initialize({ startOnLoad: false, maxEdges: 100000, maxTextSize: 10000000 });
await mermaid.parse(text);
const { db } = await mermaid.mermaidAPI.getDiagramFromText(text);
const nodes = [...db.getVertices().values()];
console.log(
  JSON.stringify({
    nodes: nodes.map(({ id, text, type, classes }) => ({ id, text, type, classes })),
    edges: db.getEdges().map(({ start, end, stroke, type }) => ({ start, end, stroke, type })),
    classes: [...db.getClasses().values()].map(({ id, styles }) => ({ id, styles })),
  }),
);
