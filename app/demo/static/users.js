// The two users that the demo signs in: each box has a connection of its own, under that user's token.
//
// Invariant: a box shows what its user's connection brought and nothing else, so it can't show what he may not see.

import { element, send } from "/demo/form.js";
import { parse } from "/demo/numbers.js";
import { connect } from "/realtime/client.js";

const KEPT = 5; // notifications in a box
const PATIENCE = 20_000; // ms for a token
const SAYS = { live: "live", connecting: "connecting", waiting: "waiting", paused: "paused" };

/** The boxes; without users there are none. */
export function showUsers(users, url, transport) {
  const place = document.getElementById("users");
  place.hidden = users.length === 0;
  const boxes = users.map((user) => new Box(user, url, transport));
  place.replaceChildren(...boxes.map((box) => box.element));
  return { close: () => boxes.forEach((box) => box.close()) };
}

class Box {
  #user;
  #live = null;
  #rows = new Map(); // the key as text → its element

  constructor(user, url, transport) {
    this.#user = user;
    this.element = element("section", "user");
    this.element.setAttribute("aria-label", `What user ${user} sees`);
    this.state = element("span", "small");
    this.state.setAttribute("role", "status");
    this.list = element("ol");
    this.button = element("button", "button quiet", "Revoke");
    this.button.addEventListener("click", () => this.#press(url, transport));
    const head = element("div", "head");
    head.append(element("h3", "", `User ${user}`), this.button);
    this.element.append(head, this.state, this.list);
    this.#begin(url, transport);
  }

  close() {
    this.#live?.close();
  }

  #begin(url, transport) {
    const channels = [`notifications:user_id=${this.#user}`];
    this.#live = connect(url, {
      channels, transport, parse,
      token: () => token(this.#user),
      onchange: (change) => this.#apply(change),
      onreset: () => this.#empty(),
      onstate: (state) => this.#show(state),
      onerror: (error) => (this.why = error.message),
    });
  }

  #show({ name, reason }) {
    const over = name === "closed";
    this.state.textContent = over ? `ended: ${this.why ?? reason}` : SAYS[name];
    this.button.textContent = over ? "Sign in" : "Revoke";
    if (name === "live") this.why = undefined;
  }

  // Revoke what the user was signed in with, or sign him in again.
  async #press(url, transport) {
    if (this.button.textContent !== "Revoke") return this.#begin(url, transport);
    try {
      await send("POST", `revoke/${this.#user}`);
    } catch (problem) {
      this.state.textContent = problem.message;
    }
  }

  #apply({ action, row, data, old }) {
    if (action === "TRUNCATE") return this.#empty();
    if (old && String(old.id) !== row) this.#drop(String(old.id));
    if (action === "DELETE") return this.#drop(row);
    const item = this.#rows.get(row) ?? element("li");
    item.textContent = `#${row} ${data.kind ?? ""} ${data.body ?? ""}`.slice(0, 200);
    if (!this.#rows.has(row)) this.list.prepend(item);
    this.#rows.set(row, item);
    const [oldest] = this.#rows.keys();
    if (this.#rows.size > KEPT) this.#drop(oldest);
  }

  #drop(key) {
    this.#rows.get(key)?.remove();
    this.#rows.delete(key);
  }

  #empty() {
    this.list.replaceChildren();
    this.#rows.clear();
  }
}

/** A token for a user of the demo, or for the page itself ("demo"). */
export async function token(user) {
  const answer = await fetch(`/demo/token/${user}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return (await answer.json()).token;
}
