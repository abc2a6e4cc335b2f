// One's own profile, password, and signing out.

import { avatar, h, showDialog } from "./dom.js";
import { field, form } from "./form.js";
import { logIn } from "./gate.js";

export function profileDialog(store, session) {
  const { id, name, nick, description } = store.me;
  return showDialog("You", (close) => {
    const saved = h("p", { class: "note", role: "status" });
    const changed = h("p", { class: "note", role: "status" });
    return [
      h("div", { class: "person" }, avatar(nick || name, id, { size: "large" }),
        h("div", { class: "one-line" }, h("strong", { class: "one-line" }, name), h("p", { class: "quiet" }, `Number ${id}`)),
        h("button", { class: "button slim danger", type: "button", on: { click: () => { close(); session.logOut(); } } }, "Sign out")),
      h("section", null,
        form({
          button: "Save", extra: saved,
          submit: async (values) => {
            const profile = await session.ask("profile.set", { nick: values.nick.trim(), description: values.description.trim() });
            store.me = { ...store.me, nick: profile.nick, description: profile.description };
            store.change();
            saved.textContent = "Saved.";
          },
        },
        field("nick", "Shown as", { value: nick, maxLength: 50, autocomplete: "nickname", placeholder: name }),
        field("description", "About you", { value: description, maxLength: 500, area: true }))),
      h("section", { class: "separate" },
        h("h3", null, "Password"),
        form({
          button: "Change the password", extra: changed,
          submit: async ({ old, new: chosen }, element) => {
            await session.ask("password.change", { old, new: chosen });
            // The token that this tab keeps is void now; without another it has to sign in after the next lost connection.
            logIn(name, chosen).then((found) => session.adopt(found), () => {});
            element.reset();
            changed.textContent = "Changed.";
          },
          rename: { password: "new" },
        },
        h("input", { type: "text", autocomplete: "username", value: name, hidden: true, readOnly: true }),
        field("old", "Password now", { type: "password", autocomplete: "current-password", required: true }),
        field("new", "New password", { type: "password", autocomplete: "new-password", required: true }))),
    ];
  });
}
