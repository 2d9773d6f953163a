// The lists of rows.
//
// Invariants: a list shows what the stream said and nothing else: a form sends and forgets, and its row appears when the
// change arrives. What arrives is drawn once a frame, however much it is. A row that is edited or has the focus is never
// dropped, hidden or moved from where it is seen.

import { element, insertForm } from "/demo/form.js";
import { Row } from "/demo/row.js";

const KEPT = 25; // rows in a list
const FOLDED = 8; // of them, those that are seen until somebody asks for more (style.css)
const AT_ONCE = 500; // changes that wait for a frame; a hidden page has none
const SHAPES = {
  posts: {
    table: "posts", one: "post", owner: "author_id", editable: ["title", "body"], readable: false,
    labels: { title: "Title", body: "Text" },
    who: (r) => `author ${r.author_id}`, title: (r) => r.title, body: (r) => r.body,
  },
  notifications: {
    table: "notifications", one: "notification", owner: "user_id", editable: ["kind", "body"], readable: true,
    labels: { kind: "Kind", body: "Text" },
    who: (r) => `user ${r.user_id}`, title: (r) => r.kind, body: (r) => r.body,
  },
};

export class Feed {
  #rows = new Map(); // the key as text → its Row
  #pending = new Map(); // the key as text → {data, action}; data is null where the row was deleted
  #queued = false;
  #loaded = false;

  constructor(table) {
    this.shape = SHAPES[table];
    this.list = document.querySelector(`#${table} .rows`);
    this.more = document.querySelector(`#${table} .more`);
    this.more.addEventListener("click", () => this.#unfold());
    insertForm(document.querySelector(`form[data-table=${table}]`));
  }

  /** Show these rows, newest first; those that are there already stay as they are. */
  load(rows) {
    this.#pending.clear();
    this.#loaded = true;
    const known = new Set(rows.map((data) => data.row));
    for (const [key, row] of this.#rows) {
      if (known.has(key) || row.isEdited) continue;
      this.#rows.delete(key);
      row.element.remove();
    }
    for (const data of rows.toReversed()) this.#put(data.row, data);
    this.#tell();
  }

  apply({ action, row, data, old }) {
    if (action === "TRUNCATE") return this.#empty();
    if (action === "UPDATE" && old && String(old.id) !== row) this.#rename(String(old.id), row);
    this.#pending.set(row, { data, action });
    if (this.#pending.size > AT_ONCE) return this.#draw();
    if (this.#queued) return;
    this.#queued = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#queued = false;
    const held = this.list.querySelector(".row:has(:focus-visible)");
    const before = held?.getBoundingClientRect().top;
    const made = [...this.#pending].filter(([key, { data }]) => data && !this.#rows.has(key)).slice(-KEPT);
    const drawn = new Set(made.map(([key]) => key));
    for (const [key, { data, action }] of this.#pending) {
      if (data === null) this.#remove(key);
      else if (drawn.has(key) || this.#rows.has(key)) this.#put(key, data, action);
    }
    this.#pending.clear();
    this.#tell();
    if (held?.isConnected) scrollBy({ top: held.getBoundingClientRect().top - before, behavior: "instant" });
  }

  #put(key, data, action) {
    const row = this.#rows.get(key);
    if (row) return row.show(key, data, action);
    const made = new Row(this.shape, key, data, () => this.#tell());
    if (action) made.show(key, data, action);
    this.#rows.set(key, made);
    this.list.prepend(made.element);
    const idle = [...this.#rows].find(([, row]) => !row.isInUse);
    if (this.#rows.size > KEPT && idle) this.#drop(...idle);
  }

  #drop(key, row) {
    this.#rows.delete(key);
    row.element.remove();
  }

  #remove(key) {
    const row = this.#rows.get(key);
    if (!row) return;
    this.#rows.delete(key);
    if (row.element.contains(document.activeElement) && !row.isEdited) this.#nextTo(row.element).focus();
    row.leave();
  }

  // What takes the focus of a row that leaves.
  #nextTo(item) {
    const near = item.nextElementSibling ?? item.previousElementSibling;
    return near?.querySelector(".edits:not([disabled])") ?? this.list;
  }

  #rename(before, now) {
    this.#draw();
    const row = this.#rows.get(before);
    this.#rows.delete(before);
    if (row) this.#rows.set(now, row);
  }

  #empty() {
    this.#pending.clear();
    for (const key of [...this.#rows.keys()]) this.#remove(key);
    this.#tell();
  }

  #unfold() {
    this.list.toggleAttribute("data-all");
    this.#tell();
  }

  // What stands below the rows: that there are none, or that there are more.
  #tell() {
    const count = this.list.querySelectorAll(".row").length;
    const empty = this.list.querySelector(".empty");
    const all = this.list.hasAttribute("data-all");
    if (count) empty?.remove();
    else if (this.#loaded) {
      empty?.remove();
      this.list.append(element("li", "empty", `No ${this.shape.table} yet. Insert one above, or from psql.`));
    }
    this.more.hidden = count <= FOLDED;
    this.more.setAttribute("aria-expanded", all);
    this.more.textContent = all ? "Show fewer" : `Show ${count - FOLDED} more`;
  }
}
