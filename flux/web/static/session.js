// A session: connected and logged in, again and again, with nothing lost and nothing twice.
//
//   locate ─> connect ─> login (id, token, acks) ─> chats ─> what was not sent yet ─> live
//      ^________________ wait, longer each time ________________|
//
// What is written waits in `outgoing` with an id of its own (cid) until the server says that it is stored; after a
// lost connection it is sent again with the same id, and the server keeps it once.

import { locate, movedAddress, rules, socketAddress } from "./gate.js";
import { Link, Lost, Refused } from "./link.js";
import { Roster } from "./roster.js";
import { unique } from "./store.js";

const ACK_AFTER = 250;
const READ_AFTER = 300;
const TYPING_EVERY = 3_000;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 30_000;
const PAGE = 50;
const STAY_AWAY = { takeover: "takeover", admin: "admin", password: "password" };

export class Session {
  /**
   * @param store what is shown
   * @param credentials {id, name, token, websocket}
   * @param save called with new credentials, to keep them
   */
  constructor(store, credentials, save) {
    this.store = store;
    this.credentials = credentials;
    this.save = save;
    this.link = null;
    this.online = false;
    this.over = false;
    this.failures = 0;
    this.queue = [];
    this.pumping = false;
    this.acks = new Map();
    this.reads = new Map();
    this.typed = new Map();
    this.roster = new Roster(store, (type, fields) => this.ask(type, fields));
    // Asked for before somebody opens the profile, or that would grow under the hand.
    this.rules = rules().catch(() => ({ codes_sent: false }));
    this.wake = () => this.hurry();
    this.look = () => document.visibilityState === "visible" && this.online && this.link.ping();
    window.addEventListener("online", this.wake);
    document.addEventListener("visibilitychange", this.look);
    this.connect();
  }

  // --- the connection ---

  async connect() {
    clearTimeout(this.retry);
    if (this.over || this.link) return;
    this.store.setLink({ state: this.store.me ? "again" : "connecting" });
    const link = new Link(socketAddress(this.credentials.websocket), (message) => this.said(message), () => this.lost(link));
    this.link = link;
    try {
      await link.opened;
      const { id, token } = this.credentials;
      const reply = await link.ask("login", { id, token, acks: true });
      await this.begin(reply);
    } catch (error) {
      if (error instanceof Refused) await this.refused(error, link);
    }
  }

  async begin(reply) {
    const { store } = this;
    store.loggedIn(reply);
    for (const conversation of store.conversations.values()) Object.assign(conversation, { loaded: false, trouble: "" });
    this.online = true;
    this.failures = 0;
    store.setLink({ state: "online" });
    this.sendReads();
    this.pump();
    store.setChats((await this.link.ask("chats")).chats);
  }

  /** The server does not take this login. */
  async refused(error, link) {
    if (error.name === "token_invalid" || error.name === "user_invalid") {
      this.finish("expired");
    } else if (error.name === "forbidden") {
      this.finish("refused", error.message);
    } else if (error.name === "already_logged_in") {
      this.finish("in_use");
    } else {
      // Draining or overloaded, perhaps for long: ask where else to go.
      if (error.name === "no_server") await this.relocate();
      link.end();
    }
  }

  async relocate() {
    try {
      const { id, token } = this.credentials;
      this.adopt(await locate(id, token));
    } catch (error) {
      if (error.name === "token_invalid") this.finish("expired");
      if (error.name === "forbidden") this.finish("refused", error.message);
    }
  }

  adopt(found) {
    if (this.over) return;
    this.credentials = { ...this.credentials, ...found };
    this.save(this.credentials);
  }

  lost(link) {
    if (this.link !== link) return;
    this.link = null;
    this.online = false;
    this.acks.clear();
    if (this.over) return;
    this.failures += 1;
    const ceiling = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(this.failures - 1, 10));
    const pause = ceiling * (0.5 + Math.random() / 2);
    this.store.setLink({ state: navigator.onLine === false ? "offline" : "waiting", until: Date.now() + pause });
    clearTimeout(this.retry);
    this.retry = setTimeout(async () => {
      // Perhaps this server is gone for good.
      if (this.failures % 4 === 3) await this.relocate();
      this.connect();
    }, pause);
  }

  /** Try again at once. */
  hurry() {
    if (!this.link && !this.over) {
      this.failures = Math.min(this.failures, 1);
      this.connect();
    }
  }

  /** End for good; `why` is shown, and what the server says of it. */
  finish(why, detail) {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.retry);
    window.removeEventListener("online", this.wake);
    document.removeEventListener("visibilitychange", this.look);
    this.link?.end();
    this.store.setLink({ state: "ended", why, detail });
  }

  async logOut() {
    try {
      if (this.online) await this.link.ask("logout");
    } catch {
      // The token lives until it expires; this browser forgets it.
    }
    this.finish("logout");
  }

  // --- what the server says ---

  said(message) {
    const { store } = this;
    switch (message.type) {
      case "message":
        store.receive(message);
        this.acknowledge(message);
        break;
      case "read":
        store.readBy(message.chat, message.seq);
        break;
      case "typing":
        store.typing(message.chat, message.from);
        break;
      case "presence":
        store.presence(message.id, message.online);
        break;
      case "friend.requested":
        store.setRequests([...store.requests.values(), { ...message, at: Date.now() }]);
        break;
      case "friend.answered":
        if (message.status === "accepted") this.refreshFriends();
        break;
      case "group.changed":
        this.groupChanged(message);
        break;
      case "kicked":
        if (!this.moving) this.kicked(message);
        break;
      case "moved":
        this.moved(message);
        break;
    }
  }

  kicked({ reason, detail }) {
    if (STAY_AWAY[reason]) this.finish(STAY_AWAY[reason], detail);
  }

  /** Go to another server; what this connection says from now on about its end means nothing. */
  async moved(there) {
    const link = this.link;
    const websocket = movedAddress(this.credentials.websocket, there);
    this.moving = true;
    if (there.token) this.adopt({ token: there.token });
    if (there.token && websocket) this.adopt({ websocket });
    else await this.relocate();
    this.moving = false;
    this.failures = 0;
    link?.end();
    this.hurry();
  }

  /** Tell the server that a message has arrived, with the others that arrive at the same time. */
  acknowledge({ chat, seq }) {
    if (!this.acks.size) setTimeout(() => this.sendAcks(), ACK_AFTER);
    this.acks.set(chat, seq);
  }

  sendAcks() {
    for (const [chat, seq] of this.acks) this.link?.tell("received", { chat, seq });
    this.acks.clear();
  }

  /** Change the members of a group; this account is not told by the server what it did itself. */
  async changeMembers(type, group, fields) {
    await this.ask(type, { group, ...fields });
    await this.groupChanged({ group, change: type.slice("group.".length), ...fields });
  }

  async groupChanged({ group, change, id, role }) {
    const { store } = this;
    if (id === store.me.id && (change === "remove" || change === "leave")) {
      store.groups.delete(group);
      store.forget(`g/${group}`);
      return;
    }
    if (id === store.me.id && (change === "add" || change === "join")) store.setGroups((await this.ask("groups")).groups);
    await Promise.all([this.refreshMembers(group), this.nameFor(id)]).catch(() => {});
    const name = id === store.me.id ? "You" : store.nameOf(id);
    const are = id === store.me.id ? "are" : "is";
    const what = { join: "joined", leave: "left", add: "joined", remove: "was removed", role: `${are} now ${role}` }[change];
    if (what && store.groups.has(group)) store.note(store.conversation(`g/${group}`), `${name} ${what}`);
  }

  // --- asking ---

  /** Ask the server; rejects with `Refused` or `Lost`, or says that there is no connection. */
  async ask(type, fields) {
    if (!this.online) throw new Refused({ name: "offline", detail: "There is no connection at the moment." });
    try {
      return await this.link.ask(type, fields);
    } catch (error) {
      if (error instanceof Lost) throw new Refused({ name: "lost", detail: "The connection was lost; try again." });
      throw error;
    }
  }

  async refreshFriends() {
    this.store.setFriends((await this.ask("friends")).friends);
  }

  async refreshGroups() {
    this.store.setGroups((await this.ask("groups")).groups);
  }

  /** Learn the members of a group. */
  refreshMembers(group) {
    return this.roster.refresh(group);
  }

  /** Learn an account's name, if it is not known. */
  async nameFor(id) {
    if (this.store.names.has(id)) return;
    const profile = await this.ask("profile.get", { id });
    this.store.names.set(id, profile.name);
    this.store.change();
  }

  /** Read a page of history: the newest, or what comes before what is there. */
  async loadHistory(conversation) {
    const { store } = this;
    if (conversation.loading || !this.online) return;
    conversation.loading = true;
    conversation.trouble = "";
    store.change();
    const newest = !conversation.loaded;
    const before = newest ? {} : { before: conversation.messages[0].seq };
    const where = conversation.kind === "group" ? { group: conversation.id } : { to: conversation.id };
    try {
      store.addHistory(conversation, await this.ask("history", { ...where, ...before, limit: PAGE }), newest);
    } catch (error) {
      conversation.trouble = error.message;
      if (error.name === "not_found" || error.name === "user_invalid") conversation.loaded = true;
    }
    conversation.loading = false;
    store.change();
  }

  /** The account has seen everything up to `seq`. */
  read(conversation, seq) {
    if (seq <= conversation.read && !conversation.unread) return;
    this.store.markRead(conversation, seq);
    if (!conversation.chat) return;
    if (!this.reads.size) setTimeout(() => this.sendReads(), READ_AFTER);
    this.reads.set(conversation.chat, conversation.read);
  }

  sendReads() {
    if (!this.online) return;
    for (const [chat, seq] of this.reads) this.link.tell("read", { chat, seq });
    this.reads.clear();
  }

  /** The person is writing; the others are told now and then. */
  typing(conversation) {
    const now = performance.now();
    if (!this.online || !conversation.chat || now - (this.typed.get(conversation.key) ?? -Infinity) < TYPING_EVERY) return;
    this.typed.set(conversation.key, now);
    this.link.tell("typing", conversation.kind === "group" ? { group: conversation.id } : { to: conversation.id });
  }

  // --- sending ---

  /** Send a text; it is shown at once, and goes out when it can. Half a character, which nothing can encode, is replaced. */
  send(conversation, written) {
    const text = written.replace(/\p{Surrogate}/gu, "\ufffd");
    const cid = `${Date.now().toString(36).padStart(9, "0")}-${unique()}`;
    const entry = { cid, text, at: Date.now(), conversation, state: "waiting", problem: "" };
    conversation.outgoing.push(entry);
    this.typed.delete(conversation.key);
    this.queue.push(entry);
    this.store.change();
    this.pump();
  }

  /** Try again to send what was refused. */
  resend(entry) {
    entry.state = "waiting";
    entry.problem = "";
    this.queue.push(entry);
    this.store.change();
    this.pump();
  }

  discard(entry) {
    const { outgoing } = entry.conversation;
    outgoing.splice(outgoing.indexOf(entry), 1);
    this.store.change();
  }

  /** What is not stored yet: what waits, in its order, and what was refused. */
  get unsent() {
    const outgoing = [...this.store.conversations.values()].flatMap((conversation) => conversation.outgoing);
    return [...this.queue, ...outgoing.filter((entry) => !this.queue.includes(entry))];
  }

  /** Take on what another session of this account has not sent. */
  takeOn(unsent) {
    for (const { conversation: { key }, ...rest } of unsent) {
      const conversation = this.store.conversation(key);
      const entry = { ...rest, conversation };
      conversation.outgoing.push(entry);
      if (entry.state === "waiting") this.queue.push(entry);
    }
  }

  /** Send what waits, one after the other, so that it arrives in the order it was written in. */
  async pump() {
    if (this.pumping) return;
    this.pumping = true;
    while (this.queue.length && this.online) {
      const entry = this.queue[0];
      if (await this.transmit(entry)) this.queue.shift();
      this.store.change();
    }
    this.pumping = false;
  }

  /** Send one message; false where it has to be sent again. */
  async transmit(entry) {
    const { conversation, cid, text } = entry;
    const where = conversation.kind === "group" ? { group: conversation.id } : { to: conversation.id };
    let stored;
    try {
      stored = await this.link.ask("send", { ...where, text, cid });
    } catch (error) {
      if (error instanceof Lost) return false;
      if (error.name === "rate_limited" || error.name === "unavailable") {
        await new Promise((resolve) => setTimeout(resolve, error.retryAfter || 1_000 + Math.random() * 1_000));
        return false;
      }
      entry.state = "failed";
      entry.problem = error.name === "forbidden" ? "You cannot write here." : error.message;
      return true;
    }
    const { outgoing } = conversation;
    outgoing.splice(outgoing.indexOf(entry), 1);
    this.store.add([{ chat: stored.chat, seq: stored.seq, from: this.store.me.id, name: this.store.me.name, text, at: stored.at, ...where }]);
    return true;
  }
}
