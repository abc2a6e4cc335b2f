// The page of who is signed in: the side with its lists, the open conversation, and what the connection is like.

import { fill, h, refill } from "./dom.js";
import { route } from "./route.js";
import { chatView } from "./view_chat.js";
import { sideView } from "./view_side.js";

export function shellView(store, session, again) {
  const state = h("div", { role: "status" });
  const main = h("main", { class: "stage" });
  const side = sideView(store, session);
  const panes = h("div", { class: "panes", on: { click: toOpenOne } }, side.element, main);
  const shell = h("div", { class: "shell" }, state, panes);
  let shown;
  let open = null;

  function update() {
    if (!shell.isConnected) {
      stop();
      return;
    }
    showLink();
    side.update(route());
    showMain();
    const unread = [...store.conversations.values()].filter((conversation) => conversation.unread).length;
    document.title = unread ? `(${unread}) flux` : "flux";
  }

  function showMain() {
    const key = store.me ? route() : "";
    const what = store.me ? key : null;
    // A group's conversation is forgotten when one is removed: there is another one then.
    const forgotten = open && open.conversation !== store.conversations.get(key);
    if (what !== shown || forgotten) {
      const focus = what !== shown || main.contains(document.activeElement);
      open?.close();
      open = key ? chatView(store, session, key) : null;
      fill(main, open ? open.element : nothing());
      panes.classList.toggle("in-chat", Boolean(key));
      if (key && focus) open.focus();
      else if (!key && shown) side.focus(shown);
      shown = what;
    }
    open?.update();
  }

  /** Whoever presses the conversation that is open goes on in it. */
  function toOpenOne(event) {
    const link = event.target.closest("a.row");
    if (!open || shown !== route() || link?.getAttribute("href") !== `#/${shown}`) return;
    event.preventDefault();
    open.focus();
  }

  function nothing() {
    const text = store.me ? "Choose somebody on the left, or write to somebody new." : "One moment.";
    return h("div", { class: "nothing" }, h("img", { src: "favicon.svg", alt: "" }), h("p", null, text));
  }

  function showLink() {
    const { state: how } = store.link;
    const [text, label, act] = describe(store.link);
    refill(state, text && JSON.stringify([how, label]), () => text && h("div", { class: "link-state", data: { state: how } },
      how === "ended" ? null : h("span", { class: "dot" }),
      h("span", { class: "link-text" }),
      label && h("button", { class: act === again ? "button slim" : "link", type: "button", on: { click: act } }, label)));
    // Which changes every second.
    const words = state.querySelector(".link-text");
    if (words && words.textContent !== text) words.textContent = text;
  }

  /** What the connection is like, in words; and where there is something to do about it, its name and what does it. */
  function describe({ state: how, until, why }) {
    const now = ["Try now", () => session.hurry()];
    if (how === "connecting") return ["Connecting…"];
    if (how === "again") return ["Connecting again…"];
    if (how === "offline") return ["You are offline. What you write is sent later.", ...now];
    if (how === "waiting") {
      const seconds = Math.max(1, Math.ceil((until - Date.now()) / 1000));
      return [`No connection. Trying again in ${seconds} s.`, ...now];
    }
    if (how === "ended" && (why === "takeover" || why === "in_use")) {
      return [why === "takeover" ? "You have signed in elsewhere." : "You are signed in elsewhere.", "Use it here", again];
    }
    return [];
  }

  const unsubscribe = store.subscribe(update);
  // While the seconds run down.
  const ticking = setInterval(() => store.link.state === "waiting" && showLink(), 500);
  window.addEventListener("hashchange", update);

  function stop() {
    unsubscribe();
    clearInterval(ticking);
    window.removeEventListener("hashchange", update);
    open?.close();
  }

  queueMicrotask(update);
  return shell;
}
