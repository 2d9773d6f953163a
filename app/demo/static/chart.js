// The delivery delays of the last changes, as stems on a logarithmic scale, and the clock that they are measured by.
//
// Invariant: a delay is never shown from two unrelated clocks: the browser's is corrected by the database's, with the
// sample of the shortest round trip. The figures are all of the same changes: those that had no connection to wait for.

const SHOWN = 90;
const DECADES = [1, 10, 100, 1000, 10_000]; // ms
const NS = "http://www.w3.org/2000/svg";

/** The database's clock, in ms, as far as the browser can know it. */
export class Clock {
  #offset = 0;
  #trip = Infinity; // of the sample that the offset is from

  now() {
    return performance.timeOrigin + performance.now() + this.#offset;
  }

  async adjust(samples = 7) {
    this.#trip *= 1.3; // clocks drift: an old sample gives way to one that is a little worse
    for (let n = 0; n < samples; n++) {
      const sent = performance.now();
      const answer = await fetch("/demo/clock", { cache: "no-store" });
      if (!answer.ok) throw new Error(`no clock: the server answered ${answer.status}`);
      const { now } = await answer.json();
      const trip = performance.now() - sent;
      if (trip >= this.#trip) continue;
      this.#trip = trip;
      this.#offset = now - (performance.timeOrigin + sent + trip / 2);
    }
  }
}

/** A timestamp of the database in ms, with its microseconds, which Date leaves out. */
export function milliseconds(at) {
  const fraction = /\.(\d+)/.exec(at)?.[1] ?? "";
  const whole = Date.parse(at.replace(/\.\d+/, ""));
  return whole + Number(`0.${fraction || 0}`) * 1000;
}

/** The value that this share of the sorted values do not exceed (nearest rank): of few, the largest. */
export function percentile(sorted, share) {
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)];
}

export function duration(ms) {
  if (ms < 10) return `${Math.max(ms, 0.1).toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

export class Chart {
  #delays = []; // {ms, late}: late are those that waited for a connection

  constructor(svg, figures) {
    this.svg = svg;
    this.figures = figures;
    this.queued = false;
    new ResizeObserver(() => this.#queue()).observe(svg);
  }

  add(ms, late) {
    this.#delays.push({ ms, late });
    this.#delays.splice(0, this.#delays.length - SHOWN);
    this.#queue();
  }

  #queue() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.#draw();
    });
  }

  #draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    const left = 46, bottom = height - 4, top = 8;
    const y = (ms) => bottom - ((Math.log10(Math.min(Math.max(ms, 0.5), 12_000)) + 0.31) / 4.4) * (bottom - top);
    const step = (width - left - 6) / SHOWN;
    const parts = DECADES.flatMap((ms) => [
      shape("line", { class: "grid", x1: left, x2: width, y1: y(ms), y2: y(ms) }),
      shape("text", { x: left - 7, y: y(ms) + 4, "text-anchor": "end" }, ms < 1000 ? `${ms} ms` : `${ms / 1000} s`),
    ]);
    const first = SHOWN - this.#delays.length;
    this.#delays.forEach(({ ms, late }, n) => {
      const x = left + 4 + (first + n + 0.5) * step;
      parts.push(shape("line", { class: late ? "stem late" : "stem", "stroke-width": Math.min(3.5, step * 0.7), x1: x, x2: x, y1: bottom, y2: Math.min(y(ms), bottom - 2) }));
    });
    if (!this.#delays.length) parts.push(shape("text", { x: (left + width) / 2, y: y(31), "text-anchor": "middle" }, "No change yet"));
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...parts);
    this.#tell();
  }

  #tell() {
    if (!this.#delays.length) return;
    const live = this.#delays.filter((d) => !d.late).map((d) => d.ms);
    const sorted = live.toSorted((a, b) => a - b);
    const told = (ms) => (ms === undefined ? "–" : duration(ms));
    const [p50, p95] = [told(percentile(sorted, 0.5)), told(percentile(sorted, 0.95))];
    this.figures.last.textContent = told(live.at(-1));
    this.figures.p50.textContent = p50;
    this.figures.p95.textContent = p95;
    this.svg.setAttribute("aria-label", `Delays of the last ${this.#delays.length} changes: median ${p50}, p95 ${p95}`);
  }
}

function shape(name, attributes, text = "") {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}
