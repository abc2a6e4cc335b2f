// Forms: fields with their labels and their problems, and one submit at a time.

import { h, icon } from "./dom.js";

let numbers = 0;

/** A labelled input; `problem` below it says what is wrong with it. */
export function field(name, label, { hint = "", area = false, beside = null, ...props } = {}) {
  const id = `field-${++numbers}`;
  const trouble = h("p", { class: "problem", id: `${id}-problem`, role: "alert" });
  const about = hint ? `${id}-hint ` : "";
  const input = h(area ? "textarea" : "input", {
    class: "input", id, name, "aria-describedby": `${about}${id}-problem`, ...props,
  });
  input.addEventListener("input", () => setProblem(trouble, "", input));
  return h("div", { class: "field", data: { field: name } },
    h("label", { for: id }, label),
    beside ? h("div", { class: "with-button" }, input, beside) : input,
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint),
    trouble);
}

/** A box to tick. */
export function choice(name, label, about, checked = false) {
  return h("label", { class: "choice" },
    h("input", { type: "checkbox", name, checked }),
    h("span", null, label, about && h("small", null, about)));
}

function setProblem(element, text, input) {
  element.replaceChildren(...(text ? [icon("alert"), h("span", null, text)] : []));
  input?.setAttribute("aria-invalid", text ? "true" : "false");
}

/** A line that says what went wrong, empty until something does. */
export function problemLine() {
  const element = h("p", { class: "problem", role: "alert" });
  element.say = (text) => setProblem(element, text);
  return element;
}

/** In words: what an error means to a person. */
export function explain(error) {
  if (error.name === "rate_limited") {
    const seconds = Math.ceil((error.retryAfter || 1000) / 1000);
    const when = seconds < 90 ? `${seconds} ${seconds === 1 ? "second" : "seconds"}` : `${Math.ceil(seconds / 60)} minutes`;
    return `Too many tries. Wait ${when} and try again.`;
  }
  if (error.name === "password_invalid" && /match/.test(error.message)) return "Name and password do not match.";
  if (error.name === "user_exists") return "This is taken already.";
  // Details begin with the field that they are about; what is forbidden is about none.
  const text = error.name === "forbidden" ? error.message : error.message.replace(/^[a-z_, ]+: /, "");
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}

/** Which field of a form an error is about: the server's details begin with it, and some errors have only one. */
function culprit(error) {
  const named = /^([a-z_]+): /.exec(error.message)?.[1];
  if (named) return named;
  return { user_exists: "name", code_wrong: "code", code_expired: "code", password_invalid: "password" }[error.name];
}

/**
 * A form; `rename` says which field an error, or a field of the server's, is about. `submit` gets the values by name, may be asynchronous, and throws what is then shown: beside the field
 * it is about, or above the buttons.
 */
export function form({ submit, button, rename = {}, extra = null }, ...fields) {
  const general = problemLine();
  const main = h("button", { class: "button main", type: "submit" }, button);
  const element = h("form", {
    class: "form", noValidate: true,
    on: {
      submit: async (event) => {
        event.preventDefault();
        if (main.disabled) return;
        general.say("");
        const values = {};
        for (const input of element.elements) {
          if (input.name) values[input.name] = input.type === "checkbox" ? input.checked : input.value;
        }
        const missing = [...element.elements].find((input) => input.required && !input.value.trim());
        if (missing) {
          showProblem(missing, "This is needed.");
          return;
        }
        main.disabled = true;
        try {
          await submit(values, element);
        } catch (error) {
          show(error);
        } finally {
          main.disabled = false;
        }
      },
    },
  }, ...fields, general, h("div", { class: "buttons end" }, extra, main));

  function showProblem(input, text) {
    setProblem(document.getElementById(`${input.id}-problem`), text, input);
    input.focus();
  }

  function show(error) {
    if (!error.name || error instanceof TypeError) console.error(error);
    const about = culprit(error) ?? "";
    const input = element.elements.namedItem(rename[error.name] ?? rename[about] ?? about);
    if (input?.id && document.getElementById(`${input.id}-problem`)) showProblem(input, explain(error));
    else general.say(explain(error));
  }

  element.show = show;
  return element;
}
