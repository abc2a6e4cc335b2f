// One WebSocket connection: requests with their replies, and what the server says by itself.

/** The server refused a request; `name` is one of the protocol's errors. */
export class Refused extends Error {
  constructor({ name, detail, retry_after: retryAfter }) {
    super(detail || name);
    this.name = name;
    this.retryAfter = retryAfter ?? 0;
  }
}

/** The connection ended before the reply came: whether the request took effect is not known. */
export class Lost extends Error {
  constructor() {
    super("the connection was lost");
    this.name = "lost";
  }
}

/** What the server says of a line that it could not read, and so cannot say which it was. */
const UNREADABLE = ["bad_json", "line_too_long"];
/** Closed, because a message was too big. */
const TOO_BIG = 1009;
const REPLY_WITHIN = 20_000;
const PING_EVERY = 25_000;

export class Link {
  /**
   * @param url where to connect
   * @param said called with everything that is no reply
   * @param ended called once, when the connection has ended
   */
  constructor(url, said, ended) {
    this.waiting = new Map();
    this.number = 0;
    this.over = false;
    this.said = said;
    this.ended = ended;
    this.heard = performance.now();
    this.opened = new Promise((resolve, reject) => {
      this.socket = new WebSocket(url);
      this.socket.onopen = resolve;
      this.failOpening = () => reject(new Lost());
    });
    this.opened.catch(() => {});
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = ({ code }) => {
      if (code === TOO_BIG) this.settle(this.oldest, { type: "error", name: "line_too_long", detail: "This is too long for the server." });
      this.end();
    };
    this.pinging = setInterval(() => this.ping(), PING_EVERY);
    this.overdue = setTimeout(() => this.socket.readyState === WebSocket.CONNECTING && this.end(), REPLY_WITHIN);
  }

  receive(data) {
    this.heard = performance.now();
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    const unreadable = message.type === "error" && !message.ref && UNREADABLE.includes(message.name);
    if (!this.settle(unreadable ? this.oldest : message.ref, message)) this.said(message);
  }

  /** The request that has waited for the longest. */
  get oldest() {
    return this.waiting.keys().next().value;
  }

  /** Give a request its reply; false where none waits for it. */
  settle(ref, message) {
    const waiter = this.waiting.get(ref);
    if (!waiter) return false;
    this.waiting.delete(ref);
    clearTimeout(waiter.overdue);
    if (message.type === "error") waiter.reject(new Refused(message));
    else waiter.resolve(message);
    return true;
  }

  /** Send a request and wait for its reply. Rejects with `Refused` or `Lost`. */
  ask(type, fields = {}) {
    if (this.over) return Promise.reject(new Lost());
    const ref = ++this.number;
    return new Promise((resolve, reject) => {
      const overdue = setTimeout(() => this.end(), REPLY_WITHIN);
      this.waiting.set(ref, { resolve, reject, overdue });
      this.socket.send(JSON.stringify({ type, ref, ...fields }));
    });
  }

  /** Send a request that has no reply. */
  tell(type, fields = {}) {
    if (!this.over && this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  /** Find out whether the other side is there; a reply that does not come ends the connection. */
  ping() {
    if (this.socket.readyState === WebSocket.OPEN) this.ask("ping").catch(() => {});
  }

  /** End the connection; everything that waits for a reply fails. */
  end() {
    if (this.over) return;
    this.over = true;
    clearInterval(this.pinging);
    clearTimeout(this.overdue);
    this.socket.onmessage = null;
    this.socket.onclose = null;
    this.socket.close();
    this.failOpening();
    for (const waiter of this.waiting.values()) {
      clearTimeout(waiter.overdue);
      waiter.reject(new Lost());
    }
    this.waiting.clear();
    this.ended();
  }
}
