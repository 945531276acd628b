// Listens to a stream of the service, and connects again after every end, for as long as the page
// is open: over a night, a restart of the service, the sleep of a laptop.

const FIRST = 2000; // milliseconds before the first new try
const LONGEST = 30000;

// How long to wait after so many failures in a row: longer and longer, and never as long as all the
// other pages that the same service has failed.
export const backoff = (failures) =>
  Math.min(FIRST * 2 ** (failures - 1), LONGEST) * (0.5 + Math.random() / 2);

// Calls the function in `handlers` for each event of its name. `address` returns the address of the
// stream, or nothing if there is no more to hear. Returns a function that stops listening.
export const listen = (address, handlers) => {
  let stream = null;
  let timer = null;
  let failures = 0;

  const close = () => {
    clearTimeout(timer);
    stream?.close();
    stream = null;
  };

  const open = () => {
    const found = address();
    if (stream || !found) return;
    stream = new EventSource(found);
    for (const [name, hear] of Object.entries(handlers)) stream.addEventListener(name, hear);
    stream.addEventListener("open", () => { failures = 0; });
    stream.addEventListener("error", () => {
      // After a lost connection a browser connects again by itself, but not after a refusal.
      if (stream?.readyState !== EventSource.CLOSED) return;
      close();
      failures += 1;
      timer = setTimeout(open, backoff(failures));
    });
  };

  // A page in the background does not listen, because a browser opens only six connections to one
  // server, for all of its pages together.
  const follow = () => {
    close();
    if (!document.hidden) open();
  };

  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
  follow();
  return close;
};
