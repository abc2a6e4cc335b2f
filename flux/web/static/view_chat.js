// An open conversation: its messages, and where one writes.

import { composer } from "./composer.js";
import { avatar, h, icon, iconButton, reconcile, refill } from "./dom.js";
import { draft, keepDraft } from "./drafts.js";
import { explain, problemLine } from "./form.js";
import { go, route } from "./route.js";
import { timeline } from "./timeline.js";
import { groupDialog } from "./view_group.js";
import { friendMenu } from "./view_people.js";
import { typingText } from "./view_side.js";

const NEAR_END = 60;
const NEAR_TOP = 400;

export function chatView(store, session, key) {
  const conversation = store.conversation(key);
  const group = conversation.kind === "group";
  const face = h("span", null);
  const name = h("h2", { class: "one-line" });
  const about = h("p", { class: "one-line" });
  const more = iconButton("more", group ? "About the group" : "About this person", () => {
    if (!group) friendMenu(store, session, conversation.id);
    else if (store.groups.has(conversation.id)) groupDialog(store, session, conversation.id);
  });
  const top = h("div", { class: "log-top", role: "status" });
  const list = h("div", { class: "log-list", role: "list" });
  const news = h("div", { class: "unseen", "aria-live": "polite" });
  const inside = h("div", { class: `log-inside${group ? "" : " pair"}` }, top, list);
  const log = h("section", { class: "log", tabIndex: 0, "aria-label": "Messages", on: { scroll: onScroll } }, inside);
  const toEnd = h("button", { class: "to-end", type: "button", hidden: true, on: { click: () => scrollToEnd() } });
  const writer = composer({
    send: (text) => {
      stuck = true;
      lastTop = 0;
      session.send(conversation, text);
    },
    draft: draft(session.credentials.id, key),
    changed(text) {
      keepDraft(session.credentials.id, key, text);
      if (text.trim()) session.typing(conversation);
    },
  });
  const join = joinPrompt();
  const element = h("div", { class: "chat", on: { keydown: onKey } },
    h("header", { class: "chat-head" },
      iconButton("back", "Back", () => go(""), "back"),
      face, h("div", { class: "chat-who" }, name, about), more),
    h("div", { class: "log-frame" }, log, toEnd, news),
    writer.element, join);

  /** Whether the end is kept in sight. */
  let stuck = true;
  /** Where the end was when it was last gone to: whoever is above has left it. */
  let lastTop = 0;
  /** Messages above this were not read when the conversation was opened. */
  let freshAbove = null;
  let firstLook = true;
  /** The last message that has been read out. */
  let told = null;

  // --- what is shown ---

  function update() {
    const known = !group || store.groups.has(conversation.id);
    showHead(known);
    writer.element.hidden = !known || store.link.state === "ended";
    join.hidden = known || !store.me || store.link.state !== "online";
    if (known && session.online && !conversation.loaded && !conversation.loading && !conversation.trouble) {
      session.loadHistory(conversation);
    }
    if (!group && session.online) session.nameFor(conversation.id).catch(() => {});
    if (freshAbove === null && conversation.loaded) {
      freshAbove = conversation.unread ? conversation.read : Infinity;
    }
    showMessages();
    tell();
    readIt();
  }

  /** Have what somebody has just written read out. */
  function tell() {
    const last = conversation.messages.at(-1);
    if (!last || !conversation.loaded) return;
    if (told !== null && last.seq > told && last.from !== store.me?.id) news.textContent = `${last.name}: ${last.text}`;
    told = last.seq;
  }

  function showHead(known) {
    const title = store.title(conversation);
    const online = !group && store.isOnline(conversation.id);
    const typing = typingText(store, conversation);
    const entry = store.groups.get(conversation.id);
    let text = "";
    if (typing) text = typing;
    else if (group) text = known ? entry.description || (entry.members ? `${entry.members.length} ${entry.members.length === 1 ? "member" : "members"}` : "Group") : "You are not a member";
    else text = store.whether(conversation.id);
    refill(face, JSON.stringify([title, online]), () => {
      name.textContent = title;
      writer.setName(title);
      log.setAttribute("aria-label", `Messages with ${title}`);
      return avatar(title, conversation.id, { square: group, online });
    });
    about.textContent = text;
    about.classList.toggle("typing", Boolean(typing));
    more.hidden = !known;
  }

  function showMessages() {
    if (stuck && log.scrollTop < lastTop - 1) stuck = nearEnd();
    const anchor = stuck ? null : firstInSight();
    const items = timeline(store, session, conversation, freshAbove ?? Infinity);
    reconcile(list, items);
    showTop(items.length);
    if (stuck) scrollToEnd();
    else if (anchor) log.scrollTop += anchor.element.getBoundingClientRect().top - anchor.top;
    if (firstLook && conversation.loaded && items.length) {
      firstLook = false;
      const fresh = list.querySelector(".fresh");
      if (fresh && log.scrollHeight > log.clientHeight) {
        fresh.scrollIntoView({ block: "center" });
        onScroll();
      }
    }
    showToEnd();
  }

  function showTop(count) {
    const { trouble, loading, loaded, more: further } = conversation;
    refill(top, JSON.stringify([trouble, loading, loaded, further, count > 0]), () => {
      if (trouble) {
        const again = h("button", { class: "link", type: "button", on: { click: () => session.loadHistory(conversation) } }, "Try again");
        return [h("span", null, explain(new Error(trouble)), " "), again];
      }
      if (loading) return count ? "Loading…" : "Loading the conversation…";
      if (loaded && !further) return count ? "This is where it began." : "Nothing here yet. Say hello.";
      return null;
    });
  }

  /** A message that stays where it is, whatever is added above it. */
  function firstInSight() {
    const frame = log.getBoundingClientRect();
    for (const element of list.querySelectorAll(".message")) {
      const box = element.getBoundingClientRect();
      if (box.bottom > frame.top) return { element, top: box.top };
    }
    return null;
  }

  function showToEnd() {
    const below = conversation.unread;
    toEnd.hidden = stuck;
    if (!stuck) refill(toEnd, below, () => [icon("down", "small"), below ? `${below} new` : "To the end"]);
  }

  // --- moving about ---

  function nearEnd() {
    return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END;
  }

  function onScroll() {
    stuck = nearEnd();
    showToEnd();
    readIt();
    if (log.scrollTop < NEAR_TOP && conversation.loaded && conversation.more && !conversation.loading && !conversation.trouble) {
      session.loadHistory(conversation);
    }
  }

  function scrollToEnd() {
    log.scrollTop = log.scrollHeight;
    lastTop = log.scrollTop;
    stuck = true;
    showToEnd();
  }

  /** What is at the end and in sight of a person has been read. */
  function readIt() {
    const last = conversation.messages.at(-1);
    if (last && stuck && conversation.loaded && document.visibilityState === "visible" && document.hasFocus()) {
      session.read(conversation, last.seq);
    }
  }

  function onKey(event) {
    if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
    event.preventDefault();
    if (route() === key) go("");
  }

  function joinPrompt() {
    const trouble = problemLine();
    const button = h("button", {
      class: "button main", type: "button",
      on: {
        click: async () => {
          trouble.say("");
          try {
            await session.ask("group.join", { group: conversation.id });
            await session.refreshGroups();
          } catch (error) {
            trouble.say(explain(error));
          }
        },
      },
    }, "Join the group");
    return h("div", { class: "composer", hidden: true }, trouble, h("div", { class: "buttons" }, button));
  }

  const resized = new ResizeObserver(() => stuck && scrollToEnd());
  resized.observe(log);
  window.addEventListener("focus", readIt);
  document.addEventListener("visibilitychange", readIt);
  if (group) session.refreshMembers(conversation.id).catch(() => {});

  return {
    conversation,
    element,
    update,
    focus() {
      // On a phone this would bring up the keyboard.
      if (matchMedia("(pointer: coarse)").matches) log.focus({ preventScroll: true });
      else writer.focus();
    },
    close() {
      resized.disconnect();
      window.removeEventListener("focus", readIt);
      document.removeEventListener("visibilitychange", readIt);
    },
  };
}
