// The browser client of Sobranie Realtime: an ES module with no dependency.
//
//   import { connect } from "/realtime/client.js";
//   const live = connect("/realtime/ws", { channels: ["posts"], onchange: (change) => console.log(change) });
//
// Invariants: every change of every channel reaches `onchange` once and in order, whatever happens to the connection;
// what the server can't honour is told by `onreset`, never passed over. For that it keeps the last position, and the
// ids since: a unit that was cut off comes again, and its known part is dropped. Another server may cut the stream
// elsewhere, so the known part may come again beyond the next position: an id is kept until it has come again. A channel
// that the server has no more, or may not give, is told by `onerror` and left out; the others go on.
//
// Options, callbacks and states are in docs/protocol.md. With `token` the end of a token is never for good.

const [FIRST_DELAY, LONGEST_DELAY, NEXT_MINUTE] = [500, 30_000, 60_000]; // ms; doubles while attempts lead to nothing
// Close codes after which the same request would fail the same way (docs/protocol.md).
const FINAL_CODES = new Set([1002, 1007, 1009, 4400, 4401, 4403]);
const FINAL_ERRORS = new Set(["bad_channel", "bad_request", "forbidden", "too_large", "unauthorized"]);
const CHANNEL_ERRORS = new Set(["bad_channel", "forbidden"]); // the matter of one channel where they name it
const TOO_MANY = 4429;
const RENEWABLE = new Set([4401, "unauthorized"]); // final only where the page has no token to give
const RENEW_EVERY = 30_000; // ms at least between two refreshes that the page's coming and going asks for

export function connect(url, options = {}) {
  const needed = options.transport === "sse" ? "TextDecoderStream" : "WebSocket";
  if (typeof globalThis[needed] !== "function") throw new TypeError(`there is no ${needed} here`);
  const channels = [options.channels ?? []].flat();
  if (channels.length === 0 || channels.some((name) => typeof name !== "string"))
    throw new TypeError('channels: a list of at least one name, such as ["posts"]');
  return new Live(new URL(url, globalThis.location?.href), { ...options, channels });
}

class Live {
  #url;
  #options;
  #open;
  #channels;
  #link = null;
  #unit = new Set(); // ids since the last position
  #again = new Set(); // ids of units that were cut off, until they come again
  #attempts = 0;
  #farewell = null; // the server's `reconnect`
  #timer = 0;
  #heartbeat = 25;
  #heardAt = 0;
  #watch = setInterval(() => this.#checkSilence(), 5000);
  #renewedAt = 0;
  #renewable = (code) => Boolean(this.#options.token) && RENEWABLE.has(code);
  // The page is in front again, or online: its token may have ended while it slept.
  #back = () => {
    if (globalThis.document?.visibilityState === "hidden") return;
    if (this.state.name === "waiting") this.#dial();
    else if (this.state.name === "live" && this.#link?.renew && Date.now() - this.#renewedAt > RENEW_EVERY) this.#renew();
  };

  constructor(url, options) {
    this.#url = url;
    this.#options = options;
    this.#open = options.transport === "sse" ? openEvents : openSocket;
    this.#channels = options.channels;
    this.position = options.position ?? null;
    this.state = { name: "paused" };
    globalThis.addEventListener?.("online", this.#back);
    globalThis.document?.addEventListener("visibilitychange", this.#back);
    this.#dial();
  }

  /** Let go of the connection and keep the position. */
  pause() {
    if (this.state.name === "closed") return;
    this.#hangUp();
    this.#tell("paused");
  }

  /** Come back to where `pause` left. */
  resume() {
    if (this.state.name === "paused") this.#dial();
  }

  /** End it for good. */
  close(reason = "closed by this page") {
    if (this.state.name === "closed") return;
    this.#hangUp();
    clearInterval(this.#watch);
    globalThis.removeEventListener?.("online", this.#back);
    globalThis.document?.removeEventListener("visibilitychange", this.#back);
    this.#tell("closed", { reason });
  }

  async #dial() {
    this.#hangUp();
    this.#tell("connecting");
    this.#farewell = null;
    this.#heardAt = Date.now();
    // An old connection's late events must not be taken for the new one's.
    const mine = (handle) => (...details) => link === this.#link && handle(...details);
    const link = (this.#link = { close() {} });
    const request = { channels: this.#channels, position: this.position, credentials: this.#options.credentials };
    request.token = await this.#token(link);
    if (link !== this.#link) return;
    Object.assign(link, this.#open(this.#url, request, {
      message: mine((text) => this.#take((this.#options.parse ?? JSON.parse)(text))),
      end: mine((end) => this.#ended(end)),
    }));
  }

  // A token of the page; null where it has none. Where it fails to say, the connection is tried again later.
  async #token(link) {
    this.#renewedAt = Date.now();
    try {
      return (await this.#options.token?.()) ?? null;
    } catch (problem) {
      report(problem);
      if (link === this.#link && this.state.name !== "live") this.#ended({ reason: `no token: ${problem?.message}` });
      return null;
    }
  }

  // Have the connection go on under a new token.
  async #renew() {
    const link = this.#link;
    if (!this.#options.token || !link) return;
    if (!link.renew) return this.#dial();
    const token = await this.#token(link);
    if (link === this.#link) link.renew(token);
  }

  #hangUp() {
    clearTimeout(this.#timer);
    const link = this.#link;
    this.#link = null;
    for (const key of this.#unit) this.#again.add(key);
    this.#unit.clear();
    link?.close();
  }

  #take(message) {
    this.#heardAt = Date.now();
    switch (message.type) {
      case "welcome":
        return void (this.#heartbeat = message.heartbeat);
      case "subscribed":
        // A position of an answer closes no unit: it counts only where there is none yet.
        if (this.position === null) this.#advance(message.position);
        return this.#tell("live");
      case "unsubscribed":
        this.#channels = this.#channels.filter((channel) => !message.channels.includes(channel));
        return this.#channels.length === 0 ? this.close("no channel is left") : undefined;
      case "reconnect":
        return void (this.#farewell = message);
      case "auth_expiring":
        return void this.#renew();
      case "error":
        return this.#refused(message);
      case "changes":
        for (const change of message.changes) this.#hand(change);
        break;
      case "reset":
        this.#forget(message.channels);
        this.#call("onreset", message);
        break;
    }
    if (message.position !== undefined) this.#advance(message.position);
  }

  #hand(change) {
    const key = `${change.channel}\n${change.id}`;
    if (this.#again.delete(key)) return;
    this.#unit.add(key);
    this.#call("onchange", change);
  }

  // What these channels got of a unit that was cut off will not come again.
  #forget(channels) {
    for (const key of this.#again) if (channels.includes(key.slice(0, key.indexOf("\n")))) this.#again.delete(key);
  }

  #advance(position) {
    if (position === undefined) return;
    this.position = position;
    this.#unit.clear();
    this.#attempts = 0;
    this.#call("onposition", position);
  }

  #refused(error) {
    this.#call("onerror", error);
    if (this.state.name === "live") return; // the connection stays; an `unsubscribed` follows where a channel went
    if (CHANNEL_ERRORS.has(error.code) && this.#leaveOut(error.channel)) this.#dial();
    else if (FINAL_ERRORS.has(error.code) && !this.#renewable(error.code)) this.close(error.message);
    else this.#ended({ delay: error.retry_after_ms ?? null, reason: error.message });
  }

  // Whether the others can go on without it.
  #leaveOut(channel) {
    const others = this.#channels.filter((name) => name !== channel);
    const found = others.length > 0 && others.length < this.#channels.length;
    if (found) this.#channels = others;
    return found;
  }

  #ended({ final = false, code = null, delay = null, error = null, reason }) {
    if (error !== null) return this.#refused(error);
    if (final && !this.#renewable(code)) return this.close(reason);
    this.#hangUp();
    const wait = this.#farewell?.after_ms ?? delay ?? this.#backoff();
    this.#tell("waiting", { reason: this.#farewell?.reason ?? reason, retryAt: Date.now() + wait });
    this.#timer = setTimeout(() => this.#dial(), wait);
  }

  #backoff() {
    const most = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#attempts++);
    return most * (0.5 + Math.random() / 2); // jitter: a fleet's clients must not come back at the same moment
  }

  // A connection that died without a word: the server sends a position at least once a heartbeat.
  #checkSilence() {
    const silent = Date.now() - this.#heardAt > (2 * this.#heartbeat + 5) * 1000;
    if (this.#link && silent) this.#ended({ reason: "the server is silent" });
  }

  // A mistake in the page's code must not cost it the rest of the message.
  #call(name, value) {
    try {
      this.#options[name]?.(value);
    } catch (mistake) {
      report(mistake);
    }
  }

  #tell(name, details = {}) {
    this.state = { name, ...details };
    this.#call("onstate", this.state);
  }
}

const report = (mistake) => (globalThis.reportError ?? console.error)(mistake);

function openSocket(url, request, on) {
  const address = new URL(url);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  const subscribe = { type: "subscribe", id: 1, channels: request.channels, position: request.position ?? undefined };
  const send = (message) => socket.readyState === 1 && socket.send(JSON.stringify(message));
  const renew = (token) => token !== null && send({ type: "auth", id: 2, token });
  socket.onopen = () => (renew(request.token), send(subscribe));
  socket.onmessage = (event) => on.message(event.data);
  socket.onclose = ({ code, reason }) =>
    on.end({
      final: FINAL_CODES.has(code),
      code,
      delay: code === TOO_MANY ? NEXT_MINUTE : null,
      reason: reason || (code === 1006 ? "the connection was lost" : `the server closed it (${code})`),
    });
  return { close: () => socket.close(), renew };
}

// By fetch: an EventSource sends no token, hides why it was refused, and comes back with its first position.
function openEvents(url, request, on) {
  const address = new URL(url);
  for (const channel of request.channels) address.searchParams.append("channel", channel);
  if (request.position !== null) address.searchParams.set("position", request.position);
  const headers = { Accept: "text/event-stream" };
  if (request.token !== null) headers.Authorization = `Bearer ${request.token}`;
  const given = new AbortController();
  const options = { headers, credentials: request.credentials, cache: "no-store", signal: given.signal };
  readEvents(address, options, on.message).then(on.end);
  return { close: () => given.abort() };
}

async function readEvents(address, options, message) {
  let began = false;
  try {
    const answer = await fetch(address, options);
    if (answer.status !== 200) {
      const final = answer.status >= 400 && answer.status <= 404;
      const said = final ? await answer.json().catch(() => null) : null;
      return { final, error: said?.type === "error" ? said : null, reason: `the server answered ${answer.status}` };
    }
    began = true;
    for await (const data of events(answer.body)) message(data);
  } catch {
    if (!began) return { reason: "the server can't be reached" };
  }
  return { reason: "the connection was lost" };
}

// The data of each event, which this server writes as one line.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = []; // pieces of a line without its end: it may be a megabyte
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    const lines = piece.value.split("\n");
    begun.push(lines.shift());
    for (const next of lines) {
      const line = begun.join("");
      begun = [next];
      if (line.startsWith("data: ")) yield line.slice(6);
    }
  }
}
