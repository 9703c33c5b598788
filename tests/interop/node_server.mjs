// An echo server of Node's `ws`, that prints its port and ends with its standard input.
//
//     node node_server.mjs FOLDER-OF-MODULES plain|deflate [CERTIFICATE KEY]
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";

const [modules, compression, cert, key] = process.argv.slice(2);
const { WebSocketServer } = createRequire(modules)("ws");

const server = cert ? https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }) : http.createServer();
const sockets = new WebSocketServer({
  server,
  perMessageDeflate: compression === "deflate" ? { threshold: 0 } : false,
  handleProtocols: (offered) => (offered.has("chat.v1") ? "chat.v1" : false),
});
sockets.on("connection", (ws, request) => {
  if (request.url === "/close") ws.close(4000, "enough");
  ws.on("message", (data, isBinary) => ws.send(data, { binary: isBinary }));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
