// The page of one execution: adds what its stream brings, and copies. Without JavaScript the page
// shows all that there was when it was loaded.
import { listen } from "./stream.js";

const root = document.getElementById("execution");
const PAUSE = 1100; // milliseconds between two refreshes
const FINAL = ["execution.completed", "execution.failed", "execution.cancelled"];
const MOST_LINES = 500;
const MOST_ANSWERS = 20;
const MOST_CHARACTERS = 32768; // of one answer

// Refreshes the live part: at once, but not more often than once a second, and always after the
// last change.
let refreshedAt = -PAUSE;
let timer = null;
const change = () => {
  timer ??= setTimeout(() => {
    timer = null;
    refreshedAt = performance.now();
    htmx.trigger(root, "changed");
  }, Math.max(0, refreshedAt + PAUSE - performance.now()));
};

// Adds to the boxes once for each picture that the browser draws, since a model may say a thousand
// pieces a second. Keeps the end in sight, unless the reader has scrolled up.
const additions = new Map();

const addAll = () => {
  for (const [box, { fills, trim }] of additions) {
    const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    for (const fill of fills) fill();
    trim(box);
    if (isAtEnd) box.scrollTop = box.scrollHeight;
  }
  additions.clear();
};

const add = (box, fill, trim) => {
  if (!additions.size) requestAnimationFrame(addAll);
  if (!additions.has(box)) additions.set(box, { fills: [], trim });
  additions.get(box).fills.push(fill);
};

// Writes characters as JSON does that would not be seen, or would turn the words beside them around.
// `words.visible` does the same.
const HIDDEN = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;
const visible = (text) =>
  text.replace(HIDDEN, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);

const source = (data) => {
  const item = data.item === null || data.item === undefined ? "" : `item ${data.item}`;
  return [data.step, item].filter(Boolean).join(", ");
};

let attempt = Number(root.dataset.attempt);

const article = (data) => {
  const key = `${attempt}/${data.step ?? ""}/${data.item ?? ""}/${data.call}`;
  const answers = document.getElementById("answers");
  const found = answers.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (found) return found;
  const made = answers.querySelector("template").content.firstElementChild.cloneNode(true);
  const parts = [source(data), data.call === 1 ? "" : `call ${data.call}`];
  parts.push(attempt > 1 ? `attempt ${attempt}` : "");
  const title = parts.filter(Boolean).join(", ") || "Answer";
  made.dataset.key = key;
  made.querySelector("h3").textContent = title;
  made.querySelector(".said").setAttribute("aria-label", title);
  const box = answers.querySelector("[data-answers]");
  box.append(made);
  if (box.children.length > MOST_ANSWERS) box.firstElementChild.remove();
  answers.hidden = false;
  return made;
};

// Not at every piece, which would also take away what the reader has selected.
const trimAnswer = (box) => {
  const text = box.textContent;
  if (text.length > 1.5 * MOST_CHARACTERS) box.textContent = `… ${text.slice(-MOST_CHARACTERS)}`;
};

const answer = (event) => {
  const box = article(event.data).querySelector(".said");
  add(box, () => box.append(visible(event.data.text)), trimAnswer);
};

const trimLog = (box) => {
  while (box.children.length > MOST_LINES) box.firstElementChild.remove();
};

const line = (event) => {
  const log = document.getElementById("log");
  const box = log.querySelector("[data-lines]");
  const made = log.querySelector("template").content.firstElementChild.cloneNode(true);
  const [time, from] = made.children;
  const fields = event.data.fields ?? {};
  time.dateTime = time.title = event.at;
  time.textContent = event.at.slice(11, 19);
  from.textContent = source(event.data);
  made.querySelector(".message").textContent = visible(event.data.message);
  if (Object.keys(fields).length) made.querySelector("code").textContent = visible(JSON.stringify(fields));
  log.hidden = false;
  add(box, () => box.append(made), trimLog);
};

// The stream continues where it was, until the execution has ended.
const events = root.dataset.stream; // a refresh of the page does not repeat it
let after = root.dataset.after;
const address = () => ("over" in root.dataset ? null : `${events}?after=${after}`);
const hear = (use) => (message) => {
  after = message.lastEventId || after;
  use(JSON.parse(message.data));
};

const changed = (event) => {
  if (event.type === "execution.started") attempt = event.data.attempt;
  if (FINAL.includes(event.type)) stop();
  change();
};

const handlers = { open: change, answer: hear(answer), line: hear(line), changed: hear(changed) };
const stop = events ? listen(address, handlers) : null;

// Copies what a button names. Without https, a browser has no clipboard: then the text is selected.
document.documentElement.classList.add("scripted");
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch {
    getSelection().selectAllChildren(text);
    if (!document.execCommand("copy")) return;
  }
  const name = (button.dataset.name ??= button.textContent);
  button.textContent = document.getElementById("told").textContent = "Copied";
  setTimeout(() => {
    button.textContent = name;
    document.getElementById("told").textContent = "";
  }, 1500);
});
