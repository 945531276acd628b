// What htmx does not do by itself. Without JavaScript every page is complete, but does not refresh.
"use strict";

// Refreshes the live parts when the service says that something has changed. A page in the
// background does not listen, because a browser opens only six connections to one server.
const changes = document.querySelector("meta[name=changes]")?.content;
let source = null;

const refresh = () => {
  for (const part of document.querySelectorAll("[data-live]")) htmx.trigger(part, "changed");
};

const listen = () => {
  if (document.hidden) {
    source?.close();
    source = null;
  } else if (!source) {
    source = new EventSource(changes);
    source.addEventListener("open", refresh);
    source.addEventListener("changed", refresh);
  }
};

if (changes && document.querySelector("[data-live]")) {
  document.addEventListener("visibilitychange", listen);
  window.addEventListener("pagehide", () => source?.close());
  listen();
}

// A page in the background does not ask again either: it catches up when it is looked at.
document.addEventListener("htmx:before:request", (event) => {
  if (document.hidden && event.detail.ctx.sourceElement.matches("[data-live]")) event.preventDefault();
});

// Says so while the service does not answer; what is shown stays.
const stale = document.getElementById("stale");
document.addEventListener("htmx:error", () => { stale.hidden = false; });
document.addEventListener("htmx:after:request", (event) => {
  stale.hidden = event.detail.ctx.response.status < 500;
});

// A second click must not start a second execution. Whoever comes back to the page may send again.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  else if (!event.defaultPrevented) event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});
