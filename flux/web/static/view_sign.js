// Signing in, signing up, and a new password for who has forgotten the old one.

import { fill, h } from "./dom.js";
import { emailAndCode, proven } from "./email.js";
import { field, form } from "./form.js";
import * as gate from "./gate.js";

const NOTICES = {
  expired: "Your session has ended. Sign in again.",
  password: "Your password was changed. Sign in with the new one.",
  admin: "This session was ended by an administrator.",
  refused: "The server does not let you in.",
  logout: "You are signed out.",
};

/**
 * The page for who is not signed in, and why; `done` gets the credentials of a session. `detail` is what the server says
 * of it, and `who` was signed in.
 */
export function signView(why, done, { detail = "", who = "" } = {}) {
  const card = h("main", { class: "sign-card" });
  const show = (page, props) => {
    fill(card, brand(), ...page(show, done, props));
    // Once it is on the page.
    queueMicrotask(() => [...card.querySelectorAll("input")].find((input) => !input.value)?.focus());
  };
  const sentence = detail && `${detail[0].toUpperCase()}${detail.slice(1)}.`;
  show(signIn, { notice: [NOTICES[why], sentence].filter(Boolean).join(" "), who });
  return h("div", { class: "sign" }, card);
}

function brand() {
  return h("div", { class: "brand" }, h("img", { src: "favicon.svg", alt: "" }), h("strong", null, "flux"));
}

function link(text, onclick) {
  return h("button", { class: "link", type: "button", on: { click: onclick } }, text);
}

const password = (name, label, autocomplete, hint = "") =>
  field(name, label, { type: "password", autocomplete, required: true, hint });

function signIn(show, done, { notice = "", who = "" } = {}) {
  const reset = link("Forgot the password?", () => show(forgotten));
  reset.hidden = true;
  gate.rules().then((rules) => { reset.hidden = !rules.codes_sent; }, () => { reset.hidden = false; });
  return [
    h("h1", null, "Sign in"),
    notice && h("p", { class: "notice", role: "status" }, notice),
    form({
      button: "Sign in",
      rename: { name: "who", email: "who" },
      submit: async (values) => done(await gate.logIn(values.who.trim(), values.password)),
    },
    field("who", "Name or e-mail address", { autocomplete: "username", required: true, value: who, autocapitalize: "none", spellcheck: false }),
    password("password", "Password", "current-password")),
    h("p", { class: "sign-foot" },
      link("Create an account", () => show(signUp)),
      reset),
  ];
}

function signUp(show, done) {
  const address = h("div", { class: "form", hidden: true });
  const secret = password("password", "Password", "new-password", "At least 8 characters.");
  const whole = form({
    button: "Create the account",
    submit: async (values) => {
      const { name, password: chosen } = values;
      const account = { name: name.trim(), password: chosen, ...proven(values) };
      await gate.register(account);
      done(await gate.logIn(account.name, chosen));
    },
  },
  field("name", "Name", { autocomplete: "username", required: true, maxLength: 50, hint: "How others find you. It cannot be changed.", autocapitalize: "none", spellcheck: false }),
  secret, address);
  gate.rules().then((rules) => {
    secret.querySelector(".hint").textContent = `At least ${rules.password_min} characters.`;
    if (rules.code_required) {
      fill(address, ...emailAndCode("register", whole));
    } else {
      fill(address, link("Add an e-mail address, to be able to reset the password", () => {
        fill(address, ...emailAndCode("register", whole, true));
        whole.elements.namedItem("email").focus();
      }));
    }
    address.hidden = !rules.code_required && !rules.codes_sent;
  }, (error) => whole.show(error));
  return [
    h("h1", null, "Create an account"),
    whole,
    h("p", { class: "sign-foot" }, link("I have an account", () => show(signIn))),
  ];
}

function forgotten(show) {
  const whole = form({
    button: "Set the password",
    submit: async ({ email, code, password: chosen }) => {
      await gate.resetPassword({ email: email.trim(), code: code.trim(), password: chosen });
      show(signIn, { notice: "The new password is set. Sign in with it.", who: email.trim() });
    },
  });
  whole.prepend(...emailAndCode("reset", whole), password("password", "New password", "new-password"));
  return [
    h("h1", null, "A new password"),
    h("p", { class: "quiet" }, "If an account has your e-mail address, you get a code there."),
    whole,
    h("p", { class: "sign-foot" }, link("Back to signing in", () => show(signIn))),
  ];
}
