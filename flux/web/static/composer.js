// Where one writes: Enter sends, Shift and Enter begin a new line.

import { h, iconButton } from "./dom.js";

const LONGEST = 8000;
const SHOW_FROM = 7500;

/** `draft` is there at the beginning; `changed` gets the text whenever it changes, to keep it. */
export function composer({ send, draft, changed }) {
  const counter = h("span", { class: "counter", "aria-live": "polite" });
  const text = h("textarea", {
    rows: 1, value: draft, placeholder: "Write a message", autocapitalize: "sentences", enterKeyHint: "send",
    on: { input: onInput, keydown: onKey },
  });
  const button = iconButton("send", "Send", submit, "main");
  const element = h("form", {
    class: "composer",
    on: {
      submit: (event) => {
        event.preventDefault();
        submit();
      },
    },
  }, h("div", { class: "composer-box" }, text, counter, button));
  const drop = () => length() === 0 || length() > LONGEST;

  /** In characters, as the server counts. */
  function length() {
    return [...text.value.trim()].length;
  }

  function onInput() {
    fit();
    changed(text.value);
  }

  function fit() {
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight}px`;
    const count = length();
    counter.textContent = count > SHOW_FROM ? `${count} / ${LONGEST}` : "";
    counter.classList.toggle("over", count > LONGEST);
    button.disabled = drop();
  }

  function onKey(event) {
    // A phone's keyboard has no Shift and Enter; while a word is composed, Enter belongs to that.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    submit();
  }

  function submit() {
    if (drop()) return;
    send(text.value.trim());
    text.value = "";
    changed("");
    fit();
    text.focus();
  }

  button.disabled = true;
  // Its height is known once it is on the page.
  if (draft) queueMicrotask(fit);
  return {
    element,
    focus: () => text.focus(),
    setName(name) {
      text.setAttribute("aria-label", `Write to ${name}`);
    },
  };
}
