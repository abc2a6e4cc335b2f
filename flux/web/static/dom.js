// Making the page from data. Text becomes text nodes and nothing else: there is no way from a string to markup here.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `props` are properties, except `class`, `on` (listeners), `data`, and what has a dash (attributes). */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value === true ? "" : value);
    else element[name] = value;
  }
  element.append(...flat(children));
  return element;
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Replace all children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

/** What an element was filled for. */
const filled = new WeakMap();

/**
 * Fill an element with what `make` makes (null: nothing), unless that was done for the same `print` before.
 * What is in it may be being pressed, or have the focus: a button made anew in between would not notice the click.
 */
export function refill(element, print, make) {
  if (filled.get(element) === print) return;
  filled.set(element, print);
  fill(element, make());
}

/** One of the symbols in index.html. */
export function icon(name, extra = "") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon ${extra}`.trim());
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button that is only an icon. */
export function iconButton(name, label, onclick, extra = "") {
  return h("button", { class: `icon-button ${extra}`.trim(), type: "button", title: label, "aria-label": label, on: { click: onclick } }, icon(name));
}

/** A round face with a letter or two, in a colour of its own. */
export function avatar(name, id, { size = "", square = false, online = false } = {}) {
  const words = [...name.matchAll(/[\p{L}\p{N}]+/gu)].map((match) => [...match[0]][0]);
  const letters = (words[0] ?? "?") + (words.length > 1 ? words.at(-1) : "");
  const element = h("span", { class: `avatar ${size}`.trim(), "aria-hidden": "true" }, letters.toUpperCase());
  element.classList.toggle("square", square);
  element.classList.toggle("online", online);
  element.style.setProperty("--hue", String((id * 137 + (square ? 75 : 0)) % 360));
  return element;
}

/** What was made for an item: its key and its print. */
const made = new WeakMap();

/**
 * Make an element's children those that `items` describe, keeping those that are there already.
 * An item is {key, print, make}: a child is made anew when its print is another than before. No two have the same key.
 * A row with a link keeps that: who presses it while its text changes has to release the same one, or it is no click.
 */
export function reconcile(parent, items) {
  const there = new Map();
  for (const child of parent.children) there.set(made.get(child)?.key, child);
  const kept = new Set();
  let next = parent.firstElementChild;
  for (const { key, print, make } of items) {
    let child = there.get(key);
    if (child && made.get(child).print !== print && renewed(child, make)) {
      mark(child, key, print);
    } else if (child && made.get(child).print !== print) {
      const fresh = mark(make(), key, print);
      if (child === next) next = fresh;
      const focused = child.contains(document.activeElement) ? document.activeElement : null;
      child.replaceWith(fresh);
      if (focused) refocus(fresh, focused);
      child = fresh;
    } else if (!child) {
      child = mark(make(), key, print);
    }
    there.delete(key);
    kept.add(child);
    if (child === next) next = child.nextElementSibling;
    else parent.insertBefore(child, next);
  }
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
}

/** Whether a row with a link has now what `make` makes; it keeps the link, and the focus with it. */
function renewed(row, make) {
  const link = row.querySelector(":scope > a[href]");
  if (!link) return false;
  const fresh = make();
  const other = fresh.querySelector(":scope > a[href]");
  if (other?.getAttribute("href") !== link.getAttribute("href")) return false;
  for (const name of ["class", "aria-current"]) {
    if (other.hasAttribute(name)) link.setAttribute(name, other.getAttribute(name));
    else link.removeAttribute(name);
  }
  fill(link, ...other.childNodes);
  const focused = row.contains(document.activeElement) && document.activeElement !== link ? document.activeElement : null;
  for (const each of [...row.children]) if (each !== link) each.remove();
  for (const each of [...fresh.children]) if (each !== other) row.append(each);
  if (focused) refocus(row, focused);
  return true;
}

function mark(element, key, print) {
  made.set(element, { key, print });
  return element;
}

function refocus(element, before) {
  const label = before.getAttribute("aria-label");
  const same = label ? element.querySelector(`[aria-label="${CSS.escape(label)}"]`) : null;
  (same ?? (element.tabIndex >= 0 ? element : element.querySelector("a, button")))?.focus();
}

/** A dialog over the page; resolves when it is closed. `build` gets a function that closes it. */
export function showDialog(title, build) {
  return new Promise((resolve) => {
    const close = () => dialog.close();
    const heading = `dialog-${Math.random().toString(36).slice(2)}`;
    const before = document.activeElement;
    const dialog = h(
      "dialog",
      {
        "aria-labelledby": heading,
        on: {
          close: () => {
            dialog.remove();
            // This comes later than the closing: what was opened instead may have the focus by now.
            if (document.activeElement === document.body) before?.focus?.();
            resolve();
          },
          // A click beside it: the backdrop belongs to the dialog element itself.
          mousedown: (event) => event.target === dialog && close(),
        },
      },
      h("div", { class: "inside" },
        h("div", { class: "dialog-head" }, h("h2", { id: heading }, title), iconButton("close", "Close", close)),
        h("div", { class: "dialog-body" }, build(close))),
    );
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector("[autofocus], .dialog-body input, .dialog-body button")?.focus();
  });
}

/** Close all dialogs, as when what they are about has ended. */
export function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}

/** Ask whether something is really to be done; resolves to true or false. */
export async function confirmed(question, yes) {
  let sure = false;
  await showDialog(question, (close) => h("div", { class: "buttons end" },
    h("button", { class: "button", type: "button", on: { click: close } }, "Cancel"),
    h("button", { class: "button main", type: "button", on: { click: () => { sure = true; close(); } } }, yes)));
  return sure;
}
