// One row of a list: its text, its buttons, and its form while it is edited.
//
// Invariant: its elements stay the same for as long as the row is shown: an update changes their text and takes neither
// the focus nor what was typed.

import { Edit } from "/demo/edit.js";
import { element, send } from "/demo/form.js";

const LEAVES = 1300; // ms for which a deleted row is still seen
const FLASHES = 1800; // ms
const SHOWN = 2000; // characters of a text; a row may hold a gigabyte

export class Row {
  #data;
  #edit = null;
  #gone = false;
  #flash = 0;

  /** `left` is called when it has left the page. */
  constructor(shape, key, data, left) {
    Object.assign(this, { shape, left });
    this.element = element("li", "row");
    this.title = text("title");
    this.body = text("body");
    this.number = element("code");
    this.who = element("span");
    this.read = element("span", "tag", "read");
    this.time = element("time");
    const meta = element("p", "meta");
    meta.append(this.number, this.who, this.time, this.read);
    this.acts = element("div", "acts");
    if (shape.readable) this.toggle = this.#act("Read", "", () => this.#send("PATCH", { read: !this.#data.read_at }));
    this.editing = this.#act("Edit", "edits", () => this.#begin());
    this.#act("Delete", "danger", () => this.#send("DELETE"));
    this.foot = element("div", "under");
    this.foot.append(meta, this.acts);
    this.problem = element("p", "problem");
    this.problem.setAttribute("role", "alert");
    this.element.append(this.title, this.body, this.foot, this.problem);
    this.show(key, data);
  }

  get isEdited() {
    return this.#edit !== null;
  }

  get isInUse() {
    return this.isEdited || this.element.contains(document.activeElement);
  }

  /** What the stream said of it. */
  show(key, data, action) {
    this.key = key;
    this.#data = data;
    write(this.title, this.shape.title(data));
    write(this.body, this.shape.body(data));
    this.number.textContent = `#${key}`;
    this.who.textContent = this.shape.who(data);
    moment(this.time, data.created_at);
    this.read.hidden = !data.read_at;
    this.element.classList.toggle("is-read", Boolean(data.read_at));
    if (this.toggle) this.toggle.textContent = data.read_at ? "Unread" : "Read";
    for (const button of this.acts.children) button.ariaLabel = `${button.textContent} ${this.shape.one} ${key}`;
    this.problem.textContent = "";
    if (action) this.#light(action);
    this.#edit?.update(key, data);
  }

  /** The row is no more. A form that is open stays until its owner has closed it. */
  leave() {
    this.#gone = true;
    if (this.#edit) return this.#edit.gone();
    this.element.classList.add("gone");
    this.element.inert = true;
    setTimeout(() => this.remove(), LEAVES);
  }

  remove() {
    this.element.remove();
    this.left();
  }

  #light(action) {
    clearTimeout(this.#flash);
    this.element.dataset.flash = action;
    this.#flash = setTimeout(() => delete this.element.dataset.flash, FLASHES);
  }

  #act(label, kind, does) {
    const button = element("button", `act ${kind}`, label);
    button.type = "button";
    button.addEventListener("click", async () => {
      if (button.ariaDisabled) return;
      button.ariaDisabled = "true";
      await does();
      button.ariaDisabled = null;
    });
    this.acts.append(button);
    return button;
  }

  async #send(method, body) {
    this.problem.textContent = "";
    try {
      await send(method, `${this.shape.table}/${this.key}`, body);
    } catch (problem) {
      this.problem.textContent = problem.status === 404 ? "This row was deleted meanwhile." : problem.message;
    }
  }

  #begin() {
    this.#edit = new Edit(this.shape, this.key, this.#data, () => this.#end());
    this.element.classList.add("editing");
    this.foot.before(this.#edit.form);
    this.#edit.focus();
  }

  #end() {
    if (!this.#edit) return;
    const { form } = this.#edit;
    const focused = form.contains(document.activeElement);
    this.#edit = null;
    this.element.classList.remove("editing");
    form.remove();
    if (this.#gone) return this.remove();
    if (focused) this.editing.focus();
  }
}

function text(kind) {
  const node = element("p", kind);
  node.dir = "auto";
  return node;
}

function write(node, text) {
  const all = String(text ?? "");
  node.textContent = all.length > SHOWN ? `${all.slice(0, SHOWN)}… (${all.length.toLocaleString()} characters)` : all;
  node.hidden = !all;
}

// The time of day, with the date where that is not today's; what is no moment ("infinity") stands as it is.
function moment(node, at) {
  const date = new Date(at);
  const day = date.toDateString() === new Date().toDateString() ? {} : { day: "numeric", month: "short", year: "numeric" };
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", ...day };
  node.textContent = isNaN(date) ? (at ?? "") : date.toLocaleString([], clock);
  node.dateTime = node.title = at ?? "";
}
