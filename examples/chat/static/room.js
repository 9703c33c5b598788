// A room: what is said in it, who is there, and the line to say something in.
//
// Whatever others wrote gets into the page by textContent only, which makes text of it and never HTML.

import { addressOf, Connection } from "./connection.js";
import { showStatus } from "./status.js";

const MOST_SHOWN = 500;           // messages and notices kept in the page
const TOGETHER = 5 * 60 * 1000;   // messages of one person within this time (in milliseconds) look like one
const COLOURS = 10;               // as many as there are in chat.css
const COUNTDOWN = 200;            // characters left from which on their number is shown

const $ = (id) => document.getElementById(id);
const log = $("log"), text = $("text"), send = $("send"), dialog = $("name-dialog"), panel = $("people-panel");
const textLimit = Number(document.body.dataset.textLimit);
const title = document.title;
const fingers = matchMedia("(pointer: coarse)");


// ---- What this tab remembers. Without storage (a browser may forbid it) it forgets on reload, and that is all.

const storage = {
  get(kind, key) { try { return window[kind].getItem(key); } catch { return null; } },
  set(kind, key, value) { try { window[kind].setItem(key, value); } catch { /* see above */ } },
};

// Tells the server who comes back when the connection was lost and the old one is not yet known to be dead.
const tab = storage.get("sessionStorage", "tab")
  ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
storage.set("sessionStorage", "tab", tab);

let name = storage.get("sessionStorage", "name");   // in this tab, so that two tabs can be two people
let wished = null;                                  // a new name, until the server has agreed
let joined = false;
let people = new Set();
const seen = new Set();                             // ids of what is in the log already
let onTheWay = [];                                  // texts that were sent and have not come back yet


// ---- The connection

const connection = new Connection(addressOf(`${location.pathname}/ws`), {
  onopen: join,
  onmessage: receive,
  onstate(state, detail) {
    joined = false;
    showStatus(state);
    showBanner(state, detail);
    showComposer();
  },
});

function join() {
  if (wished ?? name) connection.send({ type: "join", name: wished ?? name, tab });
}

function receive(event) {
  switch (event.type) {
    case "welcome":
      joined = true;
      name = event.name;
      wished = null;
      storage.set("sessionStorage", "name", name);
      storage.set("localStorage", "name", name);   // what the next tab will propose
      if (dialog.open) dialog.close();
      people = new Set(event.people);
      showPeople();
      log.setAttribute("aria-busy", "true");       // history is not news: nobody wants it read aloud
      event.history.forEach(showMessage);
      log.setAttribute("aria-busy", "false");
      scrollDown();
      giveBack();
      showComposer();
      if (!fingers.matches) text.focus();          // on a phone that would bring up the keyboard, unasked
      break;
    case "joined":
      people.add(event.name);
      showPeople();
      showNotice(event, "joined");
      break;
    case "left":
      people.delete(event.name);
      showPeople();
      showNotice(event, "left");
      break;
    case "said":
      showMessage(event);
      break;
    case "error":
      if (event.about === "name") {
        askName(event.text);
      } else {
        onTheWay.shift();                          // this one was heard, though not liked
        complain(event.text);
      }
      break;
  }
}

/** Texts that got lost on the way return to the line they were typed in. */
function giveBack() {
  if (onTheWay.length === 0) return;
  text.value = [...onTheWay, text.value].filter(Boolean).join("\n").slice(0, textLimit);
  onTheWay = [];
  complain("The connection broke before this was sent.");
  fitText();
}

function showBanner(state, detail) {
  if (state === "connecting") return;             // not worth a word, and what is there already may stay
  $("banner").hidden = state === "open";
  if (state === "waiting") {
    $("banner-text").textContent = `The connection is lost. Trying again in ${detail} s.`;
    $("retry").textContent = "Try now";
  } else if (state === "closed") {
    $("banner-text").textContent = detail.reason ? `${detail.reason}.` : "The server has closed the connection.";
    $("retry").textContent = "Use it here";
  }
}

$("retry").addEventListener("click", () => connection.restart());


// ---- The log

let last = null;        // what was shown last: {kind, name, time, day}
let atEnd = true;
let unread = 0;

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const fullTime = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

function showMessage(event) {
  if (seen.has(event.id)) return;                 // the history after a lost connection brings much of it again
  const item = fill("message-template", event);
  item.querySelector(".who").textContent = event.name;
  item.querySelector(".what").textContent = event.text;
  paint(item.querySelector(".avatar"), event.name);
  paint(item.querySelector(".who"), event.name, false);
  const day = startDay(event.time);
  const follows = !day && last?.kind === "said" && last.name === event.name && event.time - last.time < TOGETHER;
  item.classList.toggle("follows", follows);
  if (event.name === name) {
    item.classList.add("own");
    onTheWay.shift();                             // they come back in the order they were sent
  }
  append(item, event, "said");
  if (document.hidden && joined) {
    unread += 1;
    document.title = `(${unread}) ${title}`;
  }
}

function showNotice(event, kind) {
  if (seen.has(event.id)) return;
  // Somebody who reloads the page leaves and joins again: one line about that is enough.
  const again = last?.name === event.name && last.kind !== "said";
  if (again) log.lastElementChild.remove();
  startDay(event.time);
  const item = fill("notice-template", event);
  item.querySelector(".notice-text").textContent = `${event.name} ${again && kind === "joined" ? "is back" : kind}`;
  append(item, event, kind);
}

function fill(template, event) {
  const item = $(template).content.firstElementChild.cloneNode(true);
  const time = item.querySelector(".when");
  const date = new Date(event.time);
  time.dateTime = date.toISOString();
  time.textContent = clock.format(date);
  time.title = fullTime.format(date);
  return item;
}

function startDay(time) {
  const day = new Date(time).toDateString();
  if (day === last?.day) return false;
  const heading = $("day-template").content.firstElementChild.cloneNode(true);
  heading.textContent = day === new Date().toDateString() ? "Today" : calendar.format(time);
  log.append(heading);
  return true;
}

function append(item, event, kind) {
  seen.add(event.id);
  last = { kind, name: event.name, time: event.time, day: new Date(event.time).toDateString() };
  log.append(item);
  while (log.children.length > MOST_SHOWN) log.firstElementChild.remove();
  if (atEnd || event.name === name) scrollDown();
  else $("newer").hidden = kind !== "said" && $("newer").hidden;
}

function scrollDown() {
  log.scrollTop = log.scrollHeight;
  atEnd = true;
  $("newer").hidden = true;
}

log.addEventListener("scroll", () => {
  atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  if (atEnd) $("newer").hidden = true;
}, { passive: true });

// A keyboard that comes up takes away half of the log: its end stays in sight.
new ResizeObserver(() => { if (atEnd) scrollDown(); }).observe(log);

$("newer").addEventListener("click", () => { scrollDown(); text.focus(); });

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  unread = 0;
  document.title = title;
});


// ---- The people

function showPeople() {
  const others = [...people].filter((other) => other !== name).sort((a, b) => a.localeCompare(b));
  $("people").replaceChildren(...[name, ...others].map((someone) => {
    const item = $("person-template").content.firstElementChild.cloneNode(true);
    item.querySelector(".person").textContent = someone;
    item.classList.toggle("me", someone === name);
    paint(item.querySelector(".avatar"), someone);
    return item;
  }));
  $("count").textContent = others.length ? `${others.length + 1} people` : "Only you so far";
}

/** One person, one colour, in every window. */
function paint(element, someone, initials = true) {
  let hash = 0;
  for (const character of someone) hash = (hash * 31 + character.codePointAt(0)) % 65_521;
  element.dataset.colour = hash % COLOURS;
  if (!initials) return;
  element.textContent = someone.split(/\s+/).slice(0, 2).map((word) => [...word][0]).join("").toUpperCase();
}

// On a narrow screen the list slides in from the side.
function showPanel(open) {
  if (open === panel.classList.contains("open")) return;
  panel.classList.toggle("open", open);
  $("people-toggle").setAttribute("aria-expanded", String(open));
  (open ? $("people-close") : $("people-toggle")).focus();
}

$("people-toggle").addEventListener("click", () => showPanel(true));
$("people-close").addEventListener("click", () => showPanel(false));
$("shade").addEventListener("click", () => showPanel(false));
panel.addEventListener("keydown", (event) => { if (event.key === "Escape") showPanel(false); });


// ---- The name

let renaming = false;

function askName(problem = "") {
  for (const element of dialog.querySelectorAll("[data-when]")) {
    element.hidden = element.dataset.when !== (renaming ? "renaming" : "joining");
  }
  $("name").value = wished ?? name ?? storage.get("localStorage", "name") ?? "";
  $("name-problem").textContent = problem;
  $("name").setAttribute("aria-invalid", String(problem !== ""));
  if (!dialog.open) dialog.showModal();
  $("name").focus();
  $("name").select();
}

$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const wish = $("name").value.trim();
  if (joined && wish === name) {
    dialog.close();
    return;
  }
  wished = wish;
  // One connection is one person: to become somebody else is to leave and to come in again.
  if (joined) connection.restart();
  else join();
});

$("rename").addEventListener("click", () => {
  showPanel(false);
  renaming = true;
  askName();
});

$("cancel").addEventListener("click", () => dialog.close());

// The Escape key: one may go without a new name, but not without a name. Browsers insist on closing at the second Escape.
dialog.addEventListener("cancel", (event) => { if (!renaming) event.preventDefault(); });

dialog.addEventListener("close", () => {
  if (!joined && !renaming) {
    dialog.showModal();
    return;
  }
  renaming = false;
  wished = null;
  if (!joined) join();                            // the new name was not to be had: in again by the old one
});


// ---- The line to type in

function showComposer() {
  send.disabled = !joined || text.value.trim() === "";
}

function complain(problem) {
  $("problem").textContent = problem;
}

function fitText() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
  const left = textLimit - text.value.length;
  $("left-over").textContent = left <= COUNTDOWN ? `${left} left` : "";
  showComposer();
}

text.addEventListener("input", () => {
  complain("");
  fitText();
});

text.addEventListener("keydown", (event) => {
  // isComposing: this Enter only finishes a character of, say, a Japanese word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const said = text.value.trim();
  if (!said) return;
  if (!joined || !connection.send({ type: "say", text: said })) {
    complain("Not connected just now. Your text stays here.");
    return;
  }
  onTheWay.push(said);
  text.value = "";
  fitText();
  text.focus();
});

// Safari on iOS puts its keyboard over the page and leaves the page as high as it was. (At another scale the reader has
// zoomed in, which is no reason to squeeze everything.)
window.visualViewport?.addEventListener("resize", () => {
  if (visualViewport.scale === 1) document.documentElement.style.setProperty("--height", `${visualViewport.height}px`);
});

showComposer();
if (name === null) askName();
