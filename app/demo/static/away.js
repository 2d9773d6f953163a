// The experiment: drop the connection for ten seconds, write rows meanwhile, come back, and compare.
//
// Invariant: what is compared are two independent records: what the demo's interface confirmed as written, and what
// came out of the stream.

import { send } from "/demo/form.js";

const AWAY = 10_000; // ms
const PAUSE = 550; // ms between two writes
const PATIENCE = 15_000; // ms after the return
const $ = (id) => document.getElementById(id);

// Not an animation frame: a hidden page has none, and the connection must come back there too.
const pause = () => new Promise((done) => setTimeout(done, 50));

export class Away {
  #written = []; // "posts INSERT 17", in the order of the writes
  #received = null; // the same of what arrives; null while nothing is being compared
  #ids = new Set();
  #twice = 0;

  constructor(live) {
    this.live = live; // returns the connection of the moment
    $("drop").addEventListener("click", () => this.run());
  }

  /** Called with every change that the stream hands out. */
  saw(change) {
    if (!this.#received) return;
    const id = `${change.channel} ${change.id}`;
    if (this.#ids.has(id)) this.#twice++;
    this.#ids.add(id);
    this.#received.push(`${change.table} ${change.action} ${change.row}`);
    this.#show();
  }

  async run() {
    if ($("drop").ariaDisabled || !this.live()) return;
    this.#written = [];
    this.#received = [];
    this.#ids.clear();
    this.#twice = 0;
    $("drop").ariaDisabled = "true"; // not `disabled`, which would take the focus away
    this.#say("");
    this.live().pause();
    try {
      await this.#write();
    } catch (problem) {
      this.#say(`Could not write: ${problem.message}`, false);
    }
    this.live().resume();
    await this.#compare();
    this.#received = null;
    $("drop").ariaDisabled = null;
    $("drop").textContent = "Drop for 10 s";
    $("away-bar").style.transform = "scaleX(0)";
  }

  async #write() {
    const began = performance.now();
    for (let n = 0; performance.now() - began < AWAY; n++) {
      await this.#one(n);
      this.#show();
      const until = Math.min(began + AWAY, performance.now() + PAUSE);
      while (performance.now() < until) {
        await pause();
        const left = Math.max(0, 1 - (performance.now() - began) / AWAY);
        $("away-bar").style.transform = `scaleX(${1 - left})`;
        $("drop").textContent = `Back in ${Math.ceil((left * AWAY) / 1000)} s`;
      }
    }
  }

  async #one(n) {
    const own = this.#written.filter((line) => line.startsWith("posts INSERT")).map((line) => line.split(" ")[2]);
    const record = (table, action, { row }) => this.#written.push(`${table} ${action} ${row}`);
    const number = this.#written.length + 1;
    if (n % 5 === 2) record("posts", "UPDATE", await send("PATCH", `posts/${own.at(-1)}`, { body: `Edited while you were away (${number})` }));
    else if (n % 5 === 4) record("posts", "DELETE", await send("DELETE", `posts/${own.at(-1)}`));
    else if (n % 5 === 3) record("notifications", "INSERT", await send("POST", "notifications", { user_id: 42, kind: "away", body: `Written while you were away (${number})` }));
    else record("posts", "INSERT", await send("POST", "posts", { author_id: 7, title: `Written while you were away (${number})` }));
  }

  async #compare() {
    const deadline = performance.now() + PATIENCE;
    while (this.#missing().length && performance.now() < deadline) await pause();
    this.#show(true);
    const missing = this.#missing().length;
    const ours = this.#received.filter((line) => this.#written.includes(line));
    const inOrder = ours.join() === this.#written.join();
    if (!this.#written.length) return;
    if (missing || this.#twice || !inOrder) return this.#say("The stream and the writes differ.", false);
    const others = this.#received.length - ours.length;
    this.#say(`Nothing missed, nothing twice, in order${others ? ` (and ${others} by others)` : ""}.`, true);
  }

  #missing() {
    const left = [...this.#received];
    return this.#written.filter((line) => {
      const at = left.indexOf(line);
      if (at >= 0) left.splice(at, 1);
      return at < 0;
    });
  }

  #show(final = false) {
    const missing = this.#missing().length;
    $("away-written").textContent = this.#written.length;
    $("away-received").textContent = this.#written.length - missing;
    $("away-missing").textContent = final || !missing ? missing : `${missing} …`;
    $("away-duplicates").textContent = this.#twice;
  }

  #say(text, good) {
    $("away-verdict").textContent = text;
    if (good === undefined) delete $("away-verdict").dataset.good;
    else $("away-verdict").dataset.good = good;
  }
}
