// One's own profile, password, e-mail address, and signing out.

import { avatar, fill, h, showDialog } from "./dom.js";
import { emailAndCode } from "./email.js";
import { explain, field, form } from "./form.js";
import { account, changeAccount, logIn } from "./gate.js";

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
      addressSection(session),
    ];
  });
}

/** The e-mail address that a forgotten password is reset with; nothing where no e-mail is sent. */
function addressSection(session) {
  const inside = h("div", { class: "form" });

  function show(text, button, email, done = "") {
    fill(inside,
      h("p", { class: "one-line", title: text }, text),
      h("div", { class: "buttons end" },
        h("span", { class: "note", role: "status" }, done),
        h("button", { class: "button", type: "button", disabled: !button, on: { click: () => edit(email) } }, button || "Change it")));
  }

  function known({ email }, done) {
    if (email) show(email, "Change it", email, done);
    else show("None. It is for a forgotten password.", "Add one", "");
  }

  function edit(before) {
    const whole = form({
      button: "Save the address",
      rename: { user_exists: "email" },
      submit: async ({ email, code, password }) => {
        const proof = before ? { password } : {};
        known(await changeAccount(session.credentials, { email: email.trim(), code: code.trim(), ...proof }), "Saved.");
      },
    });
    whole.prepend(
      ...emailAndCode("register", whole),
      before ? field("password", "Your password", { type: "password", autocomplete: "current-password", required: true }) : "");
    fill(inside, whole);
    whole.elements.namedItem("email").focus();
  }

  // As high as what will be there: what is above is pressed where it is seen.
  show("…", "");
  const section = h("section", { class: "separate", hidden: true }, h("h3", null, "E-mail address"), inside);
  session.rules.then((found) => {
    if (!found.codes_sent) return;
    section.hidden = false;
    account(session.credentials).then(known, (error) => {
      show(error.name === "token_invalid" ? "Sign in again to see it." : explain(error), "");
    });
  });
  return section;
}
