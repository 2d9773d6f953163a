// The list of the last changes, as they came.
//
// Invariant: what arrives is drawn once a frame, and no more of it than the list shows.

import { duration } from "/demo/chart.js";
import { element } from "/demo/form.js";

const LOGGED = 80;
const SHOWN = 160; // characters of a value
// Numbers, times and UUIDs stay on one line: they may be broken at each hyphen otherwise.
const WHOLE = /^[0-9a-f:.+TZ-]{1,36}$/i;

export class Log {
  #waiting = [];
  #count = 0;
  #queued = false;

  constructor(list, counter) {
    Object.assign(this, { list, counter });
  }

  add(change, delay) {
    this.#count++;
    this.#waiting.push([change, delay]);
    if (this.#waiting.length > LOGGED) this.#waiting.shift();
    if (this.#queued) return;
    this.#queued = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#queued = false;
    this.list.querySelector(".empty")?.remove();
    this.list.prepend(...this.#waiting.toReversed().map(([change, delay]) => item(change, delay)));
    this.#waiting = [];
    while (this.list.children.length > LOGGED) this.list.lastElementChild.remove();
    this.counter.textContent = this.#count.toLocaleString();
  }
}

function item(change, delay) {
  const node = element("li");
  const line = element("p", "line");
  const badge = element("span", "badge", change.action);
  badge.dataset.action = change.action;
  const row = change.row === null ? change.table : `${change.table} ${change.row}`;
  line.append(badge, element("code", "", row), element("span", "took", duration(delay)));
  node.append(line, described(change));
  return node;
}

// An UPDATE by the columns that it changed, the others by all of them.
function described({ action, data, old }) {
  const node = element("p", "text");
  const names = Object.keys(data ?? old ?? {});
  const told = action === "UPDATE" ? names.filter((name) => said(data[name]) !== said(old?.[name])) : names;
  for (const name of told) {
    const values = action === "UPDATE" ? [value(old?.[name]), " → ", value(data[name])] : [value((data ?? old)[name])];
    node.append(element("span", "name", name), "\u00a0", ...values, "  ");
  }
  if (!told.length) node.textContent = action === "TRUNCATE" ? "every row" : "no column changed";
  return node;
}

const said = (value) => (typeof value === "string" ? value : JSON.stringify(value) ?? "");

function value(of) {
  const text = said(of) || '""';
  const node = document.createElement("bdi"); // a right-to-left value must not turn its neighbours round
  node.textContent = text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text;
  node.classList.toggle("whole", WHOLE.test(text));
  return node;
}
