// An e-mail address in a form, and the code that was sent there.

import { h } from "./dom.js";
import { explain, field } from "./form.js";
import { sendCode } from "./gate.js";

/**
 * An address, a button that has a code sent there, as Enter does, and where to write the code; `optional` where both
 * may stay empty, which is for `submit` to see, with `proven`.
 */
export function emailAndCode(purpose, whole, optional = false) {
  const sent = h("p", { class: "note", role: "status" });
  const button = h("button", { class: "button", type: "button", on: { click: send } }, "Send code");
  const address = field("email", "E-mail address", {
    type: "email", autocomplete: "email", required: !optional, maxLength: 254, beside: button, on: { keydown: onKey },
  });
  const proof = field("code", "Code from the e-mail", { autocomplete: "one-time-code", inputMode: "numeric", required: !optional, maxLength: 20 });
  const [email, code] = [address, proof].map((each) => each.querySelector("input"));

  function onKey(event) {
    if (event.key !== "Enter" || event.isComposing || code.value.trim() || (optional && !email.value.trim())) return;
    event.preventDefault();
    send();
  }

  async function send() {
    if (button.disabled) return;
    const to = email.value.trim();
    sent.textContent = "";
    if (!to || email.validity.typeMismatch) {
      whole.show(new Error(`email: ${to ? "this is no e-mail address" : "this is needed"}`));
      return;
    }
    button.disabled = true;
    try {
      await sendCode(to, purpose);
      sent.textContent = `A code is on its way to ${to}.`;
      code.focus();
    } catch (error) {
      const { name, retryAfter } = error;
      whole.show(Object.assign(new Error(`email: ${explain(error)}`), { name: name === "rate_limited" ? "wait" : name, retryAfter }));
    } finally {
      button.disabled = false;
    }
  }

  return [address, sent, proof];
}

/** The address and the code of a form, {email, code}; none where neither was given. */
export function proven({ email = "", code = "" }) {
  const given = { email: email.trim(), code: code.trim() };
  if (!given.email && !given.code) return {};
  for (const [name, value] of Object.entries(given)) if (!value) throw new Error(`${name}: this is needed`);
  return given;
}
