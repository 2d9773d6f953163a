// The usual way: Elysia, a Map of the clients, and a loop that serialises the change for each. Driven as bun.js is.
import { Elysia } from "elysia";
import { drive } from "./drive.js";

const clients = new Map();
new Elysia()
  .ws("/ws", {
    open: (ws) => void clients.set(ws.id, ws),
    close: (ws) => void clients.delete(ws.id),
    message() {},
  })
  .listen({ port: Number(process.argv[2]), hostname: "127.0.0.1" });
await drive((text) => {
  const change = JSON.parse(text);
  for (const ws of clients.values()) ws.send(JSON.stringify(change));
});
