// Bun's native publish: every client subscribes to one topic. Driven as bench/load/floor.c is, by lines on stdin.
import { drive } from "./drive.js";

const server = Bun.serve({
  port: Number(process.argv[2]),
  hostname: "127.0.0.1",
  fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("a WebSocket", { status: 426 })),
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    sendPings: false,
    open: (ws) => ws.subscribe("posts"),
    message() {},
  },
});
await drive((text) => server.publish("posts", text));
