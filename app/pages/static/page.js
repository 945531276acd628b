// What htmx does not do by itself. Without JavaScript every page is complete, but does not refresh.
import { backoff, listen } from "./stream.js";

const SOON = 1500; // milliseconds: after a refresh, the next one by the clock is left out

// Refreshes the live parts when the service says that something has changed.
const changes = document.querySelector("meta[name=changes]")?.content;

const refresh = () => {
  for (const part of document.querySelectorAll("[data-live]")) htmx.trigger(part, "changed");
};

if (changes && document.querySelector("[data-live]")) {
  listen(() => changes, { open: refresh, changed: refresh });
}

// The live parts also ask again by the clock: not in the background, where a page catches up when it
// is looked at, and less and less often while the service does not answer.
let askedAt = -SOON;
let failures = 0;
let quietUntil = 0;

document.addEventListener("htmx:before:request", (event) => {
  const { sourceElement, sourceEvent } = event.detail.ctx;
  if (!sourceElement.matches("[data-live]")) return;
  const now = performance.now();
  const isByClock = sourceEvent.type === "every";
  if (document.hidden || (isByClock && (now < quietUntil || now < askedAt + SOON))) event.preventDefault();
  else askedAt = now;
});

// Says so while the service does not answer; what is shown stays.
const stale = document.getElementById("stale");

const answered = (isFine) => {
  stale.hidden = isFine;
  failures = isFine ? 0 : failures + 1;
  quietUntil = isFine ? 0 : performance.now() + backoff(failures);
};

document.addEventListener("htmx:error", () => answered(false));
document.addEventListener("htmx:after:request", (event) => {
  const { status } = event.detail.ctx.response;
  answered(status < 500 && status !== 429);
});

// A second click must not start a second execution. Whoever comes back to the page may send again.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  else if (!event.defaultPrevented) event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

// Keeps "3 min ago" true, also on a page that asks for nothing more. As `words.ago` has it.
const lead = Date.now() - Date.parse(document.querySelector("meta[name=now]").content);
const ago = (moment) => {
  const seconds = Math.floor((Date.now() - lead - Date.parse(moment)) / 1000);
  if (seconds < 2) return "just now";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return `${seconds} s ago`;
};
setInterval(() => {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const text = ago(time.dateTime);
    if (time.textContent !== text) time.textContent = text;
  }
}, 5000);
