// Runs the script of one test over Node's `ws`. It has `connect`, `origin` and `args`; what it returns is printed.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { modules, origin, options, args, script } = JSON.parse(readFileSync(0, "utf8"));
const { WebSocket } = createRequire(modules)("ws");

// A WebSocket whose events are awaited one by one, in order, with `await ws.next()`.
function connect(path, protocols = [], more = {}) {
  const url = path.includes(":") ? path : origin.replace(/^http/, "ws") + path;
  const ws = new WebSocket(url, protocols, { ...options, ...more });
  const events = [], waiting = [];
  const tell = (event) => { waiting.length ? waiting.shift()(event) : events.push(event); };
  let agreed;
  ws.on("upgrade", (response) => { agreed = response.headers["sec-websocket-extensions"] ?? ""; });
  ws.on("open", () => tell({ type: "open", protocol: ws.protocol, extensions: agreed }));
  ws.on("message", (data, isBinary) => tell({ type: "message", data: isBinary ? data : data.toString() }));
  ws.on("ping", (data) => tell({ type: "ping", data: data.toString() }));
  ws.on("pong", (data) => tell({ type: "pong", data: data.toString() }));
  ws.on("error", (error) => tell({ type: "error", message: error.message }));
  ws.on("close", (code, reason) => tell({ type: "close", code, reason: reason.toString() }));
  ws.on("unexpected-response", async (request, response) => {
    let body = "";
    for await (const piece of response) body += piece;
    tell({ type: "refused", status: response.statusCode, body });
  });
  ws.next = () => events.length ? Promise.resolve(events.shift()) : new Promise((next) => waiting.push(next));
  return ws;
}

const AsyncFunction = (async () => {}).constructor;
const result = await new AsyncFunction("connect", "origin", "args", script)(connect, origin, args);
process.stdout.write(JSON.stringify(result ?? null), () => process.exit(0));
