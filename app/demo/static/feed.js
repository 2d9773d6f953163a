// The lists of rows, and the forms that write them.
//
// Invariant: a list shows what the stream said and nothing else: a form sends and forgets, and its row appears when the
// change arrives.

const KEPT = 25; // rows in a list
const SHAPES = {
  posts: { who: (r) => `author ${r.author_id}`, title: (r) => r.title, body: (r) => r.body, editable: ["title", "body"] },
  notifications: { who: (r) => `user ${r.user_id}`, title: (r) => r.kind, body: (r) => r.body, editable: ["kind", "body"] },
};

/** Send to the demo's interface; the answer, or an Error whose message says what was wrong (and whose `field`, where). */
export async function send(method, path, body) {
  const answer = await fetch(`/demo/${path}`, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
  }).catch(() => { throw new Error("the server can't be reached"); });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(said.error ?? `the server answered ${answer.status}`), { field: said.field });
  return said;
}

export class Feed {
  #rows = new Map(); // the key as text → its element

  constructor(table) {
    this.table = table;
    this.shape = SHAPES[table];
    this.list = document.querySelector(`#${table} .rows`);
    const form = document.querySelector(`form[data-table=${table}]`);
    form.addEventListener("submit", (event) => this.#submit(event, "POST", table, () => form.reset()));
    form.addEventListener("input", () => clear(form));
    this.#showEmpty();
  }

  /** Begin with these rows, newest first. */
  load(rows) {
    this.#rows.clear();
    this.list.replaceChildren();
    for (const data of rows.toReversed()) this.#put(data.row, data);
    this.#showEmpty();
  }

  apply({ action, row, data, old }) {
    if (action === "TRUNCATE") return this.load([]);
    if (action === "DELETE") return this.#remove(row);
    // Beyond 2^53 `old.id` has lost digits: it tells a key that changed only where the numbers differ.
    if (action === "UPDATE" && old.id !== Number(row)) this.#remove(String(old.id));
    this.#put(row, data, action);
    this.#showEmpty();
  }

  #put(key, data, flash) {
    const before = this.#rows.get(key);
    const item = this.#item(key, data);
    this.#rows.set(key, item);
    if (flash) item.dataset.flash = flash;
    if (before) before.replaceWith(item);
    else this.list.prepend(item);
    while (this.#rows.size > KEPT) this.#drop(this.#rows.keys().next().value);
  }

  #drop(key) {
    this.#rows.get(key)?.remove();
    this.#rows.delete(key);
  }

  #remove(key) {
    const item = this.#rows.get(key);
    if (!item) return;
    this.#rows.delete(key);
    item.classList.add("gone");
    item.inert = true;
    setTimeout(() => { item.remove(); this.#showEmpty(); }, 1300);
  }

  #showEmpty() {
    if (this.list.children.length) this.list.querySelector(".empty")?.remove();
    else this.list.append(element("li", "empty", `No ${this.table} yet.`));
  }

  #item(key, data) {
    const item = element("li", "row");
    const meta = element("p", "meta");
    meta.append(element("code", "", `#${key}`), element("span", "", this.shape.who(data)));
    if (data.read_at) meta.append(element("span", "", "read"));
    meta.append(time(data.created_at));
    item.append(meta);
    if (this.shape.title(data)) item.append(element("p", "title", this.shape.title(data)));
    if (this.shape.body(data)) item.append(element("p", "body", this.shape.body(data)));
    item.classList.toggle("read", Boolean(data.read_at));
    item.append(this.#actions(key, data, item));
    return item;
  }

  #actions(key, data, item) {
    const acts = element("div", "acts");
    const act = (label, kind, does) => {
      const button = element("button", `button quiet slim ${kind}`, label);
      button.setAttribute("aria-label", `${label} ${this.table} ${key}`);
      button.addEventListener("click", does);
      acts.append(button);
    };
    const path = `${this.table}/${key}`;
    const attempt = (method, body) => send(method, path, body).catch((problem) => this.#complain(item, problem));
    if ("read_at" in data) act(data.read_at ? "Unread" : "Read", "", () => attempt("PATCH", { read: !data.read_at }));
    act("Edit", "", () => this.#edit(key, data, item));
    act("Delete", "danger", () => attempt("DELETE"));
    return acts;
  }

  #complain(item, problem) {
    item.querySelector(".problem")?.remove();
    const told = element("p", "problem", problem.message);
    told.setAttribute("role", "alert");
    item.append(told);
  }

  #edit(key, data, item) {
    const form = element("form");
    form.noValidate = true;
    for (const name of this.shape.editable) {
      const label = element("label", "", name[0].toUpperCase() + name.slice(1));
      const field = document.createElement(name === "body" ? "textarea" : "input");
      field.name = name;
      field.value = data[name];
      field.maxLength = name === "body" ? 2000 : 200;
      label.append(field);
      form.append(label);
    }
    const foot = element("div", "foot");
    const cancel = element("button", "button quiet slim", "Cancel");
    cancel.type = "button";
    const back = () => this.#rows.get(key) === item && item.replaceWith(this.#keep(key, this.#item(key, data)));
    cancel.addEventListener("click", back);
    foot.append(element("p", "problem"), cancel, element("button", "button slim", "Save"));
    form.append(foot);
    form.addEventListener("submit", (event) => this.#submit(event, "PATCH", `${this.table}/${key}`, back)); // nothing comes where nothing changed
    item.replaceChildren(item.firstElementChild, form);
    form.elements[0].focus();
  }

  #keep(key, item) {
    this.#rows.set(key, item);
    return item;
  }

  async #submit(event, method, path, done) {
    event.preventDefault();
    const form = event.target;
    const problem = form.querySelector(".problem");
    const fields = [...form.elements].filter((field) => field.name);
    clear(form);
    try {
      await send(method, path, Object.fromEntries(fields.map((field) => [field.name, read(field)])));
      done?.();
      if (done) fields.find((field) => field.type !== "number")?.focus();
    } catch (mistake) {
      problem.textContent = mistake.message;
      const field = mistake.field && form.elements[mistake.field];
      field?.setAttribute?.("aria-invalid", "true");
      field?.focus?.();
    }
  }
}

function clear(form) {
  form.querySelector(".problem").textContent = "";
  for (const field of form.elements) field.removeAttribute("aria-invalid");
}

function read(field) {
  return field.type === "number" ? (field.value === "" ? null : Number(field.value)) : field.value;
}

function time(at) {
  const node = element("time", "time", new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }));
  node.dateTime = at;
  return node;
}

export function element(name, kind = "", text = "") {
  const node = document.createElement(name);
  if (kind) node.className = kind;
  node.textContent = text;
  return node;
}
