// What the page says about its connection, and about what went wrong.
//
// Invariant: while the rows may be old the page says so, why, when it tries again, and lets that be now.

const $ = (id) => document.getElementById(id);
const SLOW = 3000; // ms after which a connection that is being made is told
const OWN = "closed by this page";

export class Status {
  #timer = 0;

  /** `again` makes the connection try now. */
  constructor(again) {
    $("again").addEventListener("click", () => (this.ended ? location.reload() : again()));
    $("dismiss").addEventListener("click", () => this.notify(""));
  }

  show(state, transport) {
    clearInterval(this.#timer);
    this.ended = state.name === "closed" && state.reason !== OWN;
    $("state").dataset.state = this.ended ? "closed" : state.name;
    $("state-over").textContent = state.name === "live" ? `over ${transport}` : "";
    $("state-text").textContent = {
      connecting: "Connecting",
      live: "Live",
      paused: "Dropped",
      waiting: "Not connected",
      closed: this.ended ? "Closed" : "Loading",
    }[state.name];
    $("offline").hidden = true;
    if (state.name === "connecting") this.#timer = setInterval(() => this.#tell("The server has not answered yet.", ""), SLOW);
    if (state.name === "waiting") this.#wait(state);
    if (this.ended) this.#tell(`The connection has ended for good: ${state.reason}.`, "", "Reload the page");
  }

  /** Say it until it is dismissed, or until something else is said. */
  notify(text) {
    $("notice-text").textContent = text;
    $("notice").hidden = !text;
  }

  #wait({ reason, retryAt }) {
    const why = navigator.onLine ? reason : "this device is offline";
    const tell = () => {
      const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
      this.#tell(`Not connected: ${why}. The rows may be out of date.`, `Next try in ${seconds} s.`);
    };
    tell();
    this.#timer = setInterval(tell, 1000);
  }

  #tell(text, countdown, button = "Try now") {
    if ($("offline-text").textContent !== text) $("offline-text").textContent = text; // or it would be read out each second
    $("offline-next").textContent = countdown;
    $("again").textContent = button;
    $("offline").hidden = false;
  }
}
