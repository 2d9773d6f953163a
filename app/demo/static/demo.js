// The demo page: puts the connection, the lists, the chart and the experiment together.
//
// Invariant: the rows on the page and the stream are of one cut: the first rows come with the position that the stream
// goes on from, and after a reset both are loaded anew.

import { Away } from "/demo/away.js";
import { Chart, Clock, milliseconds } from "/demo/chart.js";
import { Feed } from "/demo/feed.js";
import { Log } from "/demo/log.js";
import { parse } from "/demo/numbers.js";
import { Status } from "/demo/status.js";
import { showUsers, token } from "/demo/users.js";
import { connect } from "/realtime/client.js";

const $ = (id) => document.getElementById(id);
const CLOCK_EVERY = 60_000; // ms
const AGAIN = 2000; // ms after which rows that could not be loaded are asked for again
const PATIENCE = 20_000; // ms for one answer
const NAMES = { websocket: "WebSocket", sse: "SSE" };
const URLS = { websocket: "/realtime/ws", sse: "/realtime/events" };

const feeds = { posts: new Feed("posts"), notifications: new Feed("notifications") };
const clock = new Clock();
const chart = new Chart($("chart"), { last: $("delay-last"), p50: $("delay-p50"), p95: $("delay-p95") });
const log = new Log($("log"), $("count"));
const status = new Status(() => (live.pause(), live.resume()));
const away = new Away(() => live);
let live;
let users = []; // that the server signs in
let boxes = null; // of what each of them sees
let transport = "websocket";
let liveSince = Infinity; // on the database's clock: what was written earlier had to wait for the connection

async function load() {
  const answer = await fetch("/demo/state", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  const state = parse(await answer.text());
  if (!answer.ok) throw new Error(state.error);
  for (const [table, feed] of Object.entries(feeds)) feed.load(state.rows[table]);
  $("psql").textContent = state.psql;
  users = state.users;
  return state.position;
}

async function begin(why = "") {
  try {
    const position = await load();
    await clock.adjust().catch(() => {}); // the next adjustment may do better; the rows need no clock
    start(position);
    status.notify(why);
  } catch (problem) {
    status.notify(`The rows could not be loaded (${problem.message}). Trying again.`);
    setTimeout(begin, AGAIN, why);
  }
}

function start(position) {
  live?.close();
  boxes?.close();
  boxes = showUsers(users, URLS[transport], transport);
  const channels = Object.keys(feeds);
  const signed = users.length ? { token: () => token("demo") } : {};
  live = connect(URLS[transport], { ...signed, channels, position, transport, parse, onchange, onposition, onreset, onstate, onerror });
}

function onchange(change) {
  const delay = clock.now() - milliseconds(change.at);
  const late = milliseconds(change.at) < liveSince;
  feeds[change.table].apply(change);
  chart.add(delay, late);
  if (late) $("late-note").hidden = false;
  away.saw(change);
  log.add(change, delay);
}

function onposition(position) {
  $("position").textContent = position;
}

async function onreset({ reason }) {
  live.close();
  await begin(`The server could not go on from the last position (${reason}), so the rows were loaded anew.`);
}

function onerror(error) {
  status.notify(`${error.message} (${error.code})`);
}

function onstate(state) {
  liveSince = state.name === "live" ? clock.now() : Infinity;
  status.show(state, NAMES[transport]);
}

for (const option of document.querySelectorAll("input[name=transport]")) {
  option.addEventListener("change", () => {
    transport = option.value;
    if (live) start(live.position);
  });
}

$("copy").addEventListener("click", async () => {
  let said = "Copied";
  try {
    await navigator.clipboard.writeText($("psql").textContent);
  } catch {
    getSelection().selectAllChildren($("psql")); // a page that came without TLS has no clipboard
    said = "Selected";
  }
  $("copied").textContent = said;
  $("copy").textContent = said;
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
});

setInterval(() => clock.adjust(3).catch(() => {}), CLOCK_EVERY);
begin();
