// "go RATE SECONDS BURST FILE" on stdin: publish FILE's text BURST times at each of RATE ticks a second, its mark set to
// the time of the tick; then a line.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

export async function drive(publish) {
  console.log("listening");
  for await (const line of createInterface({ input: process.stdin })) {
    const [, rate, seconds, burst, file] = line.split(" ");
    const text = readFileSync(file, "utf8");
    let ticks = Math.round(rate * seconds);
    await new Promise((done) => {
      const timer = setInterval(() => {
        const stamped = text.replaceAll(/@t\d{16}/g, "@t" + Math.round((performance.timeOrigin + performance.now()) * 1000));
        for (let i = 0; i < burst; i++) publish(stamped);
        if (--ticks === 0) done(clearInterval(timer));
      }, 1000 / rate);
    });
    console.log("{}");
  }
}
