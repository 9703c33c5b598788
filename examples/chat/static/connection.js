// A WebSocket that comes back by itself. Knows nothing of chats.

const FIRST_DELAY = 500;      // milliseconds until the first new attempt; doubled after each that failed
const LONGEST_DELAY = 15_000;

// Close codes after which there is no sense in coming back: the server does not want us (1008, RFC 6455 section 7.4.1),
// or this place has been taken over by another window (4001, ours).
const FINAL = new Set([1008, 4001]);

/** The ws:// address of a path on the server that this page comes from. */
export function addressOf(path) {
  const address = new URL(path, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return address.href;
}

/**
 * Opens a connection and keeps it open.
 *
 * onopen()            whenever there is a new connection
 * onmessage(object)   for each JSON object that comes in
 * onstate(state, …)   "connecting", "open", "waiting" with the seconds left until the next attempt,
 *                     or "closed" with the close event when that was the end
 */
export class Connection {
  #address; #handlers; #socket = null; #timer = 0; #failures = 0; #state = "";

  constructor(address, handlers) {
    this.#address = address;
    this.#handlers = handlers;
    addEventListener("online", () => this.retry());
    addEventListener("offline", () => {
      if (this.#state !== "open") return;
      this.#abandon();
      this.#wait();
    });
    // A phone stops timers in the background: look again as soon as somebody looks at us.
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.retry(); });
    // A browser may keep a page that one has left, and its connection with it, to bring both back by the Back button.
    // But who has left is to be gone for the others.
    addEventListener("pagehide", () => { clearTimeout(this.#timer); this.#abandon(); });
    addEventListener("pageshow", (event) => { if (event.persisted) this.restart(); });
    this.#open();
  }

  /** Sends an object as JSON. False when there is no connection; nothing is kept for later. */
  send(object) {
    if (this.#state !== "open") return false;
    this.#socket.send(JSON.stringify(object));
    return true;
  }

  /** Tries at once instead of waiting on. */
  retry() {
    if (this.#state === "waiting") this.#open();
  }

  /** Starts over, after the end too. */
  restart() {
    clearTimeout(this.#timer);
    this.#abandon();
    this.#failures = 0;
    this.#open();
  }

  #abandon() {
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
  }

  #open() {
    clearTimeout(this.#timer);
    this.#become("connecting");
    const socket = this.#socket = new WebSocket(this.#address);
    socket.onopen = () => {
      this.#become("open");
      this.#handlers.onopen?.();
    };
    socket.onmessage = (event) => {
      this.#failures = 0;  // only now: a server that accepts and then falls over deserves the longer delays too
      this.#handlers.onmessage(JSON.parse(event.data));
    };
    socket.onclose = (event) => {
      if (FINAL.has(event.code)) this.#become("closed", event);
      else this.#wait();
    };
  }

  #wait() {
    // Somewhere between half and all of the delay: after a restart not all browsers knock at the same moment.
    const delay = Math.min(FIRST_DELAY * 2 ** this.#failures, LONGEST_DELAY) * (0.5 + Math.random() / 2);
    const end = Date.now() + delay;
    this.#failures += 1;
    const tick = () => {
      const left = end - Date.now();
      if (left <= 0) {
        this.#open();
        return;
      }
      this.#become("waiting", Math.ceil(left / 1000));
      this.#timer = setTimeout(tick, Math.min(left, 1000));
    };
    tick();
  }

  #become(state, detail) {
    this.#state = state;
    this.#handlers.onstate?.(state, detail);
  }
}
