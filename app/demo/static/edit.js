// The form that a row turns into while it is edited.
//
// Invariants: what was typed stays, whatever happens to the row elsewhere; a field that was not touched follows the row;
// only touched fields are written, so nobody else's change is taken back unasked.

import { attempt, clear, element, send, submitOnEnter } from "/demo/form.js";
import { whole } from "/demo/numbers.js";

const ARRIVAL = 1000; // ms for which a saved form waits for its change, so that the old text does not flash up

export class Edit {
  #base; // the row as the stream last told it
  #fields;
  #gone = false;
  #saved = false;
  #warned = false; // that Escape throws typed text away

  /** `done` is called at the end; `key` is the row's as text. */
  constructor(shape, key, data, done) {
    Object.assign(this, { shape, key, done });
    this.#base = data;
    this.form = element("form", "edit");
    this.form.noValidate = true;
    this.#fields = shape.editable.map((name) => this.#field(name, data[name] ?? ""));
    this.note = element("p", "note");
    this.note.setAttribute("role", "status");
    this.form.append(this.note, this.#foot());
    this.form.addEventListener("input", () => clear(this.form));
    this.form.addEventListener("submit", (event) => this.#submit(event));
    this.form.addEventListener("keydown", submitOnEnter);
    this.form.addEventListener("keydown", (event) => event.key === "Escape" && this.#escape());
  }

  focus() {
    this.#fields[0].focus();
  }

  /** The row changed: by this form, or elsewhere. */
  update(key, data) {
    this.key = key;
    if (this.#saved) return this.done();
    const lost = this.#fields.filter((field) => {
      const [before, now] = [this.#base[field.name] ?? "", data[field.name] ?? ""];
      if (field.value === before) follow(field, now);
      return field.value !== now && before !== now;
    });
    this.#base = data;
    if (!lost.length) return;
    this.#say("Changed elsewhere meanwhile. ");
    for (const { name } of lost) this.note.append(`${this.shape.labels[name]} is now “`, isolated(data[name]), "”. ");
    this.note.append("Save puts your text in its place.");
  }

  /** The row was deleted elsewhere. */
  gone() {
    if (this.#saved) return this.done();
    this.#gone = true;
    this.#say("This row was deleted elsewhere. Your text is still here: insert it as a new row, or discard it.");
    this.save.textContent = "Insert as new";
    this.cancel.textContent = "Discard";
  }

  #touched() {
    return this.#fields.filter((field) => field.value !== (this.#base[field.name] ?? ""));
  }

  async #submit(event) {
    event.preventDefault();
    if (this.#gone) return this.#insert();
    const touched = this.#touched();
    if (!touched.length) return this.done();
    const body = Object.fromEntries(touched.map((field) => [field.name, field.value]));
    const patch = () => send("PATCH", `${this.shape.table}/${this.key}`, body).catch((mistake) => {
      if (mistake.status !== 404) throw mistake;
      this.gone();
    });
    if (!(await attempt(this.form, "Saving …", patch))) return;
    this.#saved = true;
    this.#say("Saved.");
    setTimeout(this.done, ARRIVAL);
  }

  async #insert() {
    const { table, owner } = this.shape;
    const texts = this.#fields.map((field) => [field.name, field.value]);
    const body = { [owner]: whole(String(this.#base[owner])), ...Object.fromEntries(texts) };
    if (await attempt(this.form, "Inserting …", () => send("POST", table, body))) this.done();
  }

  #escape() {
    if (!this.#touched().length || this.#warned) return this.done();
    this.#warned = true;
    this.#say("Press Escape once more to throw away what you typed.");
  }

  #say(text) {
    this.note.textContent = text;
  }

  #field(name, text) {
    const label = element("label", "", this.shape.labels[name]);
    const field = document.createElement(name === "body" ? "textarea" : "input");
    Object.assign(field, { name, value: text, dir: "auto", autocomplete: "off" });
    if (name === "body") field.rows = 3;
    label.append(field);
    this.form.append(label);
    return field;
  }

  #foot() {
    const foot = element("div", "foot");
    const problem = element("p", "problem");
    problem.id = `problem-${this.shape.table}-${this.key}`;
    problem.setAttribute("role", "alert");
    this.cancel = element("button", "button quiet", "Cancel");
    this.cancel.type = "button";
    this.cancel.addEventListener("click", () => this.done());
    this.save = element("button", "button", "Save");
    foot.append(problem, this.cancel, this.save);
    return foot;
  }
}

// The caret stays where it was, as far as there is still text there.
function follow(field, text) {
  if (field.value === text) return;
  const { selectionStart, selectionEnd } = field;
  field.value = text;
  if (document.activeElement === field) field.setSelectionRange(selectionStart, selectionEnd);
}

function isolated(text) {
  const node = document.createElement("bdi");
  node.textContent = String(text ?? "").length > 80 ? `${text.slice(0, 80)}…` : text;
  return node;
}
