// The side: who is signed in, conversations, people.

import { avatar, h, icon, iconButton, reconcile, refill } from "./dom.js";
import { explain, problemLine } from "./form.js";
import { shortTime } from "./time.js";
import { newConversation, newGroup } from "./view_new.js";
import { profileDialog } from "./view_profile.js";
import { friendMenu } from "./view_people.js";

export function sideView(store, session) {
  const me = h("button", { class: "me", type: "button", on: { click: () => profileDialog(store, session) } });
  const chatsTab = tab("chats", "Chats");
  const peopleTab = tab("people", "People");
  const find = h("input", { class: "input", type: "search", placeholder: "Filter", "aria-label": "Filter the list", autocomplete: "off", on: { input: () => update() } });
  const trouble = problemLine();
  trouble.classList.add("list-problem");
  const list = h("ul", null);
  const empty = h("div", { class: "empty" });
  const panel = h("nav", { class: "scroll", id: "side-panel", role: "tabpanel", "aria-label": "Conversations" }, list, empty);
  const element = h("aside", { class: "side" },
    h("div", { class: "side-head" }, me,
      iconButton("group", "New group", () => newGroup(store, session)),
      iconButton("write", "New conversation", () => newConversation(store, session))),
    h("div", { class: "tabs", role: "tablist", on: { keydown: onTabKey } }, chatsTab, peopleTab),
    h("div", { class: "finder" }, icon("search"), find),
    trouble, panel);
  let tabShown = "chats";
  let current = "";

  function tab(name, label) {
    return h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "side-panel", on: { click: () => choose(name) } }, label);
  }

  function choose(name) {
    tabShown = name;
    find.value = "";
    trouble.say("");
    update();
  }

  function onTabKey(event) {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    choose(tabShown === "chats" ? "people" : "chats");
    (tabShown === "chats" ? chatsTab : peopleTab).focus();
  }

  function update(key = current) {
    current = key;
    showMe();
    for (const [button, name] of [[chatsTab, "chats"], [peopleTab, "people"]]) {
      button.setAttribute("aria-selected", String(name === tabShown));
      button.tabIndex = name === tabShown ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${tabShown}`);
    badge(chatsTab, "Chats", [...store.conversations.values()].filter((each) => each.unread).length, "unread");
    badge(peopleTab, "People", store.requests.size, "requests");
    const items = tabShown === "chats" ? conversations() : people();
    reconcile(list, items);
    const filter = Boolean(find.value.trim());
    refill(empty, JSON.stringify([items.length > 0, tabShown, filter, Boolean(store.me)]), () => (items.length ? null : nothing(filter)));
    empty.hidden = items.length > 0;
  }

  function showMe() {
    if (!store.me) return;
    const { id, name, nick } = store.me;
    me.setAttribute("aria-label", `${name}: profile and signing out`);
    refill(me, JSON.stringify([id, name, nick]), () => [avatar(nick || name, id), h("span", { class: "one-line" },
      h("strong", { class: "one-line" }, nick || name),
      h("small", { class: "one-line" }, nick ? name : "Profile"))]);
  }

  function badge(button, label, count, what) {
    refill(button, count, () => [label, count > 0 && h("span", { class: "badge" }, String(count), h("span", { class: "unseen" }, ` ${what}`))]);
  }

  function matches(name) {
    return name.toLowerCase().includes(find.value.trim().toLowerCase());
  }

  // --- conversations ---

  function conversations() {
    return [...store.conversations.values()]
      .filter((each) => each.last || each.outgoing.length || (each.kind === "group" && store.groups.has(each.id)))
      .filter((each) => matches(store.title(each)))
      .sort((one, other) => lastAt(other) - lastAt(one) || one.id - other.id)
      .map(conversationItem);
  }

  function lastAt(conversation) {
    return conversation.outgoing.at(-1)?.at ?? conversation.last?.at ?? 0;
  }

  function conversationItem(conversation) {
    const { key, id, kind, unread } = conversation;
    const title = store.title(conversation);
    const last = conversation.outgoing.at(-1) ?? conversation.last;
    const when = last ? shortTime(last.at) : "";
    const online = kind === "person" && store.isOnline(id);
    const typing = typingText(store, conversation);
    const text = typing || lastText(conversation, last);
    const selected = key === current;
    return {
      key,
      print: JSON.stringify([title, when, online, typing, text, unread, selected]),
      make: () => h("li", null,
        h("a", { class: `row${unread ? " unread" : ""}`, href: `#/${key}`, "aria-current": selected ? "page" : null },
          avatar(title, id, { square: kind === "group", online }),
          h("span", { class: "row-text" },
            h("span", { class: "row-line" },
              h("span", { class: "row-name one-line" }, title),
              h("span", { class: "row-time" }, when)),
            h("span", { class: "row-line" },
              h("span", { class: `row-last one-line${typing ? " typing" : ""}` }, text),
              unread > 0 && h("span", { class: "badge" }, unread > 999 ? "999+" : String(unread), h("span", { class: "unseen" }, " unread")))))),
    };
  }

  function lastText(conversation, last) {
    if (!last) return "No messages yet";
    const text = last.text.slice(0, 120).replace(/\s+/g, " ");
    if (!("from" in last) || last.from === store.me.id) return `You: ${text}`;
    return conversation.kind === "group" ? `${last.name}: ${text}` : text;
  }

  // --- people ---

  function people() {
    const requests = [...store.requests.values()].filter(({ name }) => matches(name));
    const friends = [...store.friends.values()]
      .filter((friend) => matches(friend.remark || friend.nick || friend.name) || matches(friend.name))
      .sort((one, other) => Number(other.online) - Number(one.online) || one.name.localeCompare(other.name));
    return [
      ...(requests.length ? [title("Want to be friends"), ...requests.map(requestItem)] : []),
      ...(friends.length ? [title("Friends"), ...friends.map(friendItem)] : []),
    ];
  }

  function title(text) {
    return { key: `title-${text}`, print: "", make: () => h("li", { class: "list-title" }, text) };
  }

  function requestItem({ from, name, note }) {
    const answer = async (event, accept) => {
      const row = event.currentTarget.closest(".row");
      for (const button of row.querySelectorAll("button")) button.disabled = true;
      trouble.say("");
      try {
        await session.ask("friend.answer", { from, accept });
        store.setRequests([...store.requests.values()].filter((request) => request.from !== from));
        if (accept) await session.refreshFriends();
      } catch (error) {
        trouble.say(explain(error));
        for (const button of row.querySelectorAll("button")) button.disabled = false;
      }
    };
    return {
      key: `request-${from}`,
      print: JSON.stringify([name, note]),
      make: () => h("li", { class: "row" },
        avatar(name, from),
        h("span", { class: "row-text" }, h("span", { class: "row-name one-line" }, name), h("span", { class: "row-last one-line" }, note || "No message")),
        h("span", { class: "row-actions" },
          iconButton("close", `Decline ${name}`, (event) => answer(event, false)),
          iconButton("check", `Accept ${name}`, (event) => answer(event, true), "main"))),
    };
  }

  function friendItem(friend) {
    const { id, name } = friend;
    const shown = friend.remark || friend.nick || name;
    const whether = store.whether(id);
    const about = [whether, shown !== name && name].filter(Boolean).join(" · ");
    const selected = current === `u/${id}`;
    return {
      key: `friend-${id}`,
      print: JSON.stringify([shown, name, whether, selected]),
      make: () => h("li", { class: "row-frame" },
        h("a", { class: "row", href: `#/u/${id}`, "aria-current": selected ? "page" : null },
          avatar(shown, id, { online: store.isOnline(id) }),
          h("span", { class: "row-text" },
            h("span", { class: "row-name one-line" }, shown),
            h("span", { class: "row-last one-line" }, about || "\u00a0"))),
        iconButton("more", `More about ${shown}`, () => friendMenu(store, session, id))),
    };
  }

  function nothing(filter) {
    if (!store.me) return null;
    if (filter) return "Nothing here has that in its name.";
    const write = h("button", { class: "button slim", type: "button", on: { click: () => newConversation(store, session) } }, icon("write", "small"), "Find somebody");
    return [h("p", null, tabShown === "chats" ? "No conversations yet." : "No friends yet."), write];
  }

  return {
    element,
    update,
    /** Put the focus back on a conversation that was open. */
    focus(key) {
      (list.querySelector(`a[href="#/${key}"]`) ?? find).focus();
    },
  };
}

/** Who is writing, in words; empty where nobody is. */
export function typingText(store, conversation) {
  const writing = [...conversation.typing.keys()];
  if (!writing.length) return "";
  if (conversation.kind === "person") return "writing…";
  if (writing.length > 2) return `${writing.length} people are writing…`;
  return `${writing.map((id) => store.nameOf(id)).join(" and ")} ${writing.length > 1 ? "are" : "is"} writing…`;
}
