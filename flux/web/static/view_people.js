// What can be done about a person.

import { avatar, h, iconButton, showDialog } from "./dom.js";
import { explain, problemLine } from "./form.js";
import { go } from "./route.js";

/** A row for somebody who was found, with what can be done. */
export function personRow(store, profile, ...actions) {
  const { id, name, nick } = profile;
  return h("li", { class: "row" },
    avatar(nick || name, id, { online: store.isOnline(id) }),
    h("span", { class: "row-text" },
      h("span", { class: "row-name one-line" }, nick || name),
      h("span", { class: "row-last one-line", role: "status" }, nick ? `${name} · ${id}` : `Number ${id}`)),
    h("span", { class: "row-actions" }, ...actions));
}

/** Ask somebody to be a friend, on a button in whose row it is then said how it went. */
export function befriendButton(store, session, { id, name }, trouble) {
  const button = iconButton("add", `Ask ${name} to be a friend`, async () => {
    button.disabled = true;
    trouble.say("");
    try {
      const { status } = await session.ask("friend.add", { to: id });
      button.closest(".row").querySelector(".row-last").textContent = status === "accepted" ? "You are friends" : "Asked to be a friend";
      if (status === "accepted") await session.refreshFriends();
    } catch (error) {
      button.disabled = false;
      trouble.say(explain(error));
    }
  });
  return button;
}

/** A dialog about one person: write, add or remove, block or unblock. */
export function friendMenu(store, session, id) {
  const known = store.friends.get(id);
  const name = store.nameOf(id);
  return showDialog(known?.remark || known?.nick || name, (close) => {
    const trouble = problemLine();
    const about = h("p", { class: "quiet" });
    session.ask("profile.get", { id }).then(({ description }) => about.replaceChildren(description || ""), () => {});
    const act = (text, done, work, extra = "") => {
      const button = h("button", {
        class: `button wide ${extra}`.trim(), type: "button",
        on: {
          click: async () => {
            button.disabled = true;
            trouble.say("");
            try {
              await work();
              button.textContent = done;
            } catch (error) {
              button.disabled = false;
              trouble.say(explain(error));
            }
          },
        },
      }, text);
      return button;
    };
    const write = h("button", { class: "button main wide", type: "button", on: { click: () => { close(); go(`u/${id}`); } } }, "Write");
    return [
      h("div", { class: "person" }, avatar(known?.nick || name, id, { size: "large", online: store.isOnline(id) }),
        h("div", { class: "one-line" }, h("strong", { class: "one-line" }, name), h("p", { class: "quiet" }, `Number ${id}`))),
      about,
      h("div", { class: "form" },
        write,
        known
          ? act("Remove from friends", "Removed", async () => {
            await session.ask("friend.remove", { id });
            await session.refreshFriends();
          })
          : act("Add friend", "Asked", () => session.ask("friend.add", { to: id })),
        act("Block", "Blocked", async () => {
          await session.ask("user.block", { id });
          store.setRequests([...store.requests.values()].filter(({ from }) => from !== id));
          await session.refreshFriends();
        }, "danger"),
        act("Unblock", "Not blocked", () => session.ask("user.unblock", { id }))),
      trouble,
    ];
  });
}
