// The messages of a conversation as items for `reconcile`: days, what is new, groups of messages, what is not sent yet.

import { avatar, h, icon } from "./dom.js";
import { dayName, dayOf, fullTime, timeOfDay } from "./time.js";

/** Messages of one person within this time stand together. */
const TOGETHER = 5 * 60_000;
const LINK = /\bhttps?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]}]/g;

/** Everything that is shown, from top to bottom; messages above `freshAbove` count as new. */
export function timeline(store, session, conversation, freshAbove) {
  const items = [];
  const events = [...conversation.events];
  const entries = [
    ...conversation.messages.map((message) => ({ ...message, key: `m${message.seq}-${message.at}`, own: message.from === store.me?.id })),
    ...conversation.outgoing.map((entry) => ({ entry, key: entry.cid, text: entry.text, at: entry.at, from: store.me?.id, own: true })),
  ];
  let freshShown = false;
  entries.forEach((message, index) => {
    const before = entries[index - 1];
    const after = entries[index + 1];
    const newDay = !before || dayOf(before.at) !== dayOf(message.at);
    if (newDay) items.push(day(message));
    let apart = newDay;
    if (!freshShown && !message.own && message.seq > freshAbove) {
      freshShown = apart = true;
      items.push({ key: "fresh", print: "", make: () => h("div", { class: "fresh", role: "separator" }, "New") });
    }
    const eventsHere = takeEvents(events, message.seq ?? Infinity);
    const first = apart || !together(before, message);
    const last = !after || !together(message, after) || dayOf(after.at) !== dayOf(message.at);
    items.push(item(session, conversation, message, { first, last, read: message.seq <= conversation.readBy }));
    items.push(...eventsHere);
  });
  items.push(...takeEvents(events, Infinity));
  return items;
}

function together(one, other) {
  return one.from === other.from && other.at - one.at < TOGETHER;
}

/** The day above a message. What is not sent yet has the time of this machine, so that a day may come again. */
function day({ key, at }) {
  const text = dayName(at);
  return { key: `day-${key}`, print: text, make: () => h("div", { class: "day", role: "separator" }, text) };
}

/** The events that happened up to a message. */
function takeEvents(events, seq) {
  const taken = [];
  while (events.length && events[0].after <= seq) {
    const { id, text } = events.shift();
    taken.push({ key: id, print: "", make: () => h("div", { class: "event" }, text) });
  }
  return taken;
}

function item(session, conversation, message, { first, last, read }) {
  const { entry, own, text, at, from, name } = message;
  const state = entry ? entry.state : own ? (read ? "read" : "sent") : "";
  const print = JSON.stringify([first, last, state, entry?.problem, text]);
  const classes = ["message", own && "own", first && "first", last && "last", state === "failed" && "failed"].filter(Boolean);
  const inGroup = conversation.kind === "group";
  return {
    key: message.key,
    print,
    make: () => h("div", { class: classes.join(" "), role: "listitem" },
      !own && inGroup && (last ? avatar(name ?? "?", from, { size: "small" }) : h("span", null)),
      h("div", { class: "bubble-box" },
        !own && inGroup && first && h("span", { class: "who one-line" }, name),
        h("div", { class: "bubble", dir: "auto" },
          h("span", { class: "unseen" }, own ? "You: " : inGroup ? `${name}: ` : ""),
          withLinks(text),
          stamp(at, state)),
        state === "failed" && failure(session, entry))),
  };
}

const STATES = {
  waiting: ["clock", "Not sent yet"],
  sent: ["check", "Sent"],
  read: ["read", "Read"],
};

function stamp(at, state) {
  const [symbol, label] = STATES[state] ?? [];
  return h("span", { class: "stamp" },
    h("time", { dateTime: new Date(at).toISOString(), title: fullTime(at) }, timeOfDay(at)),
    symbol && [icon(symbol, state === "read" ? "seen" : ""), h("span", { class: "unseen" }, label)]);
}

function failure(session, entry) {
  return h("div", { class: "problem", role: "alert" }, icon("alert"),
    h("span", null, `Not sent. ${entry.problem}`),
    h("button", { class: "link", type: "button", on: { click: () => session.resend(entry) } }, "Try again"),
    h("button", { class: "link", type: "button", on: { click: () => session.discard(entry) } }, "Discard"));
}

/** A text in pieces: addresses of web pages become links, everything else stays text. */
function withLinks(text) {
  const pieces = [];
  let end = 0;
  for (const match of text.matchAll(LINK)) {
    pieces.push(text.slice(end, match.index));
    pieces.push(h("a", { href: match[0], target: "_blank", rel: "noopener noreferrer nofollow" }, match[0]));
    end = match.index + match[0].length;
  }
  pieces.push(text.slice(end));
  return pieces.filter((piece) => piece !== "");
}
