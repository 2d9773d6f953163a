// What the page sends to the demo's interface, and how its forms say what came of it.
//
// Invariants: what somebody typed is never cleared unless it was written as it stands; what is wrong is said beside the
// form, and the field that it is about is marked, described by it, and has the focus.

import { encode, whole } from "/demo/numbers.js";

const PATIENCE = 20_000; // ms for one answer

/** Send to the demo's interface; the answer, or an Error whose message says what was wrong (`field` where, `status`). */
export async function send(method, path, body) {
  const answer = await fetch(`/demo/${path}`, {
    method,
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && encode(body),
    signal: AbortSignal.timeout(PATIENCE),
  }).catch((problem) => {
    if (problem.name === "TimeoutError") throw new Error(`No answer within ${PATIENCE / 1000} seconds. It may still have been done.`);
    throw new Error(navigator.onLine ? "The server can't be reached. Nothing was changed." : "This device is offline. Nothing was changed.");
  });
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  throw Object.assign(new Error(sentence(said.error ?? `the server answered ${answer.status}`)), { field: said.field, status: answer.status });
}

/** A form for new rows of this table. */
export function insertForm(form) {
  form.addEventListener("input", () => clear(form));
  form.addEventListener("keydown", submitOnEnter);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const fields = named(form);
    const before = fields.map((field) => field.value);
    const typed = fields.map((field) => [field.name, value(field)]).filter(([, typed]) => typed !== null);
    const done = await attempt(form, "Inserting …", () => send("POST", form.dataset.table, Object.fromEntries(typed)));
    if (!done) return;
    fields.forEach((field, n) => field.value === before[n] && (field.value = field.defaultValue));
    if (form.contains(document.activeElement)) fields.find((field) => field.inputMode !== "numeric").focus();
  });
}

/** Run what a form's button asks for, once at a time; the answer, or null after the form has said what was wrong. */
export async function attempt(form, meanwhile, does) {
  const button = form.querySelector("button:not([type=button])");
  if (button.ariaDisabled) return null;
  const label = button.textContent;
  clear(form);
  button.ariaDisabled = "true"; // not `disabled`, which would take the focus away
  button.textContent = meanwhile;
  try {
    return await does();
  } catch (mistake) {
    blame(form, mistake);
    return null;
  } finally {
    button.ariaDisabled = null;
    if (button.textContent === meanwhile) button.textContent = label;
  }
}

function blame(form, mistake) {
  const told = form.querySelector(".problem");
  told.textContent = mistake.message;
  const field = named(form).find((field) => field.name === mistake.field);
  if (!field) return;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", told.id);
  field.focus();
}

export function clear(form) {
  form.querySelector(".problem").textContent = "";
  for (const field of named(form)) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-describedby");
  }
}

/** Ctrl or ⌘ with Enter sends a form from its text areas too. */
export function submitOnEnter(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.requestSubmit();
}

export const named = (form) => [...form.elements].filter((field) => field.name);

// A number that was left out is not sent at all, so that the answer is that it is needed.
function value(field) {
  if (field.inputMode !== "numeric") return field.value;
  return field.value.trim() ? whole(field.value.trim()) : null;
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

export function element(name, kind = "", text = "") {
  const node = document.createElement(name);
  if (kind) node.className = kind;
  node.textContent = text;
  return node;
}
