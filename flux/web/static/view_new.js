// New conversations and new groups.

import { fill, h, showDialog } from "./dom.js";
import { choice, explain, field, form, problemLine } from "./form.js";
import { befriendButton, personRow } from "./view_people.js";
import { go } from "./route.js";

const SEARCH_AFTER = 250;

/** A field that looks for people while one types, and the rows it finds; `refresh` shows these again, with other actions. */
export function peopleFinder(store, session, label, actions) {
  const trouble = problemLine();
  const rows = h("ul", null);
  const note = h("p", { class: "note", role: "status" });
  let waiting = null;
  let latest = 0;
  let found = [];
  const show = () => {
    const focused = rows.contains(document.activeElement);
    fill(rows, found.map((user) => personRow(store, user, ...actions(user, trouble))));
    if (focused) box.querySelector("input").focus();
  };
  const search = async (query) => {
    const number = ++latest;
    trouble.say("");
    if (!query) {
      found = [];
      show();
      note.textContent = "";
      return;
    }
    try {
      const { users } = await session.ask("user.search", { query });
      if (number !== latest) return;
      found = users.filter(({ id }) => id !== store.me.id);
      show();
      note.textContent = found.length ? "" : "Nobody has a name that begins so.";
    } catch (error) {
      if (number === latest) trouble.say(explain(error));
    }
  };
  const box = field("query", label, {
    type: "search", autocomplete: "off", maxLength: 50, spellcheck: false, hint: "The beginning of a name, or a number.",
    on: {
      input: (event) => {
        clearTimeout(waiting);
        waiting = setTimeout(search, SEARCH_AFTER, event.target.value.trim());
      },
    },
  });
  return Object.assign(h("div", { class: "form" }, box, trouble, note, rows), { refresh: show });
}

/** Look for somebody and write to them. */
export function newConversation(store, session) {
  return showDialog("New conversation", (close) => peopleFinder(store, session, "Who?", (user, trouble) => [
    !store.friends.has(user.id) && befriendButton(store, session, user, trouble),
    h("button", {
      class: "button slim main", type: "button",
      on: {
        click: () => {
          store.names.set(user.id, user.name);
          close();
          go(`u/${user.id}`);
        },
      },
    }, "Write"),
  ]));
}

/** Make a group, or join one that is there. */
export function newGroup(store, session) {
  return showDialog("Groups", (close) => [
    h("section", null,
      h("h3", null, "Make a group"),
      form({
        button: "Make the group",
        submit: async ({ name, description, closed, open }) => {
          const made = await session.ask("group.create", { name: name.trim(), description: description.trim(), closed, history: open ? "open" : "joined" });
          await session.refreshGroups();
          close();
          go(`g/${made.group}`);
        },
      },
      field("name", "Name", { required: true, maxLength: 50, autocomplete: "off" }),
      field("description", "What it is about", { maxLength: 500, autocomplete: "off" }),
      choice("closed", "By invitation only", "Only its owner and admins add people."),
      choice("open", "New members see what was written before they came"))),
    h("section", { class: "separate" },
      h("h3", null, "Join a group"),
      form({
        button: "Join",
        rename: { not_found: "group", forbidden: "group" },
        submit: async ({ group }) => {
          const number = Number(group.trim());
          if (!Number.isSafeInteger(number) || number < 1) throw new Error("group: A group's number is a whole number.");
          await session.ask("group.join", { group: number });
          await session.refreshGroups();
          close();
          go(`g/${number}`);
        },
      },
      field("group", "Number of the group", { required: true, inputMode: "numeric", autocomplete: "off", hint: "Its members see it under the group's name." }))),
  ]);
}
