// The demo page: puts the connection, the lists, the chart and the experiment together.
//
// Invariant: the rows on the page and the stream are of one cut: the first rows come with the position that the stream
// goes on from, and after a reset both are loaded anew.

import { Away } from "/demo/away.js";
import { Chart, Clock, duration, milliseconds } from "/demo/chart.js";
import { Feed, element } from "/demo/feed.js";
import { connect } from "/realtime/client.js";

const $ = (id) => document.getElementById(id);
const LOGGED = 80;
const CLOCK_EVERY = 60_000; // ms
const NAMES = { websocket: "WebSocket", sse: "SSE" };
const URLS = { websocket: "/realtime/ws", sse: "/realtime/events" };

const feeds = { posts: new Feed("posts"), notifications: new Feed("notifications") };
const clock = new Clock();
const chart = new Chart($("chart"), { last: $("delay-last"), p50: $("delay-p50"), p95: $("delay-p95") });
const away = new Away(() => live);
let live;
let transport = "websocket";
let liveSince = Infinity; // on the database's clock: what was written earlier had to wait for the connection
let count = 0;

async function load() {
  const answer = await fetch("/demo/state", { cache: "no-store" });
  const state = await answer.json();
  if (!answer.ok) throw new Error(state.error);
  for (const [table, feed] of Object.entries(feeds)) feed.load(state.rows[table]);
  $("psql").textContent = state.psql;
  return state.position;
}

async function begin() {
  try {
    const position = await load();
    await clock.adjust();
    start(position);
    notify("");
  } catch (problem) {
    notify(`The rows could not be loaded (${problem.message}). Trying again.`);
    setTimeout(begin, 2000);
  }
}

function start(position) {
  live?.close();
  const channels = Object.keys(feeds);
  live = connect(URLS[transport], { channels, position, transport, onchange, onposition, onreset, onstate, onerror });
}

function onchange(change) {
  const delay = clock.now() - milliseconds(change.at);
  const late = milliseconds(change.at) < liveSince;
  feeds[change.table].apply(change);
  chart.add(delay, late);
  if (late) $("late-note").hidden = false;
  away.saw(change);
  log(change, delay);
  $("count").textContent = ++count;
}

function onposition(position) {
  $("position").textContent = position;
  $("position").title = position;
}

async function onreset({ reason }) {
  notify(`The server could not go on from the last position (${reason}). The rows are loaded anew.`);
  live.close();
  await begin();
}

function onerror(error) {
  notify(`${error.code}: ${error.message}`);
}

function onstate(state) {
  liveSince = state.name === "live" ? clock.now() : Infinity;
  $("state").dataset.state = state.name;
  $("state-over").hidden = state.name !== "live";
  $("state-over").textContent = `over ${NAMES[transport]}`;
  $("state-text").textContent = {
    connecting: "Connecting",
    live: "Live",
    paused: "Dropped",
    waiting: `Away: ${state.reason}`,
    closed: state.reason ?? "Closed",
  }[state.name];
}

function log(change, delay) {
  const item = element("li");
  const line = element("p", "line");
  const badge = element("span", "badge", change.action);
  badge.dataset.action = change.action;
  const row = change.row === null ? change.table : `${change.table} ${change.row}`;
  line.append(badge, element("code", "", row), element("span", "took", duration(delay)));
  item.append(line, element("p", "text", JSON.stringify(change.data ?? change.old)));
  $("log").querySelector(".empty")?.remove();
  $("log").prepend(item);
  while ($("log").children.length > LOGGED) $("log").lastElementChild.remove();
}

function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

for (const option of document.querySelectorAll("input[name=transport]")) {
  option.addEventListener("change", () => {
    transport = option.value;
    if (live) start(live.position);
  });
}

$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText($("psql").textContent);
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
});

setInterval(() => clock.adjust(3).catch(() => {}), CLOCK_EVERY);
begin();
