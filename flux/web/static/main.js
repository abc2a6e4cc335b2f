// Where it begins: who is signed in, and what is shown.

import { closeDialogs, fill } from "./dom.js";
import { forgetDrafts } from "./drafts.js";
import { Session } from "./session.js";
import { Store } from "./store.js";
import { shellView } from "./view_shell.js";
import { signView } from "./view_sign.js";

const KEPT = "flux.session";
const app = document.getElementById("app");
const store = new Store();
/** What was not sent when a session ended, by the account's id. Nothing is sent twice: each entry has its cid. */
const unsent = new Map();
let session = null;

/** The token, whose it is and where it belongs, for as long as this tab lives; never a password. */
function keep(credentials) {
  if (credentials) sessionStorage.setItem(KEPT, JSON.stringify(credentials));
  else sessionStorage.removeItem(KEPT);
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT));
  } catch {
    return null;
  }
}

/** Keep what the session has not sent, until this account signs in again. */
function keepUnsent() {
  if (session?.unsent.length) unsent.set(session.credentials.id, session.unsent);
}

function begin(credentials) {
  closeDialogs();
  keepUnsent();
  keep(credentials);
  store.clear();
  session = new Session(store, credentials, keep);
  session.takeOn(unsent.get(credentials.id) ?? []);
  unsent.delete(credentials.id);
  fill(app, shellView(store, session, () => begin(session.credentials)));
}

/** Back to signing in, unless it is only the connection that somebody else has taken. */
function leave(why, detail) {
  closeDialogs();
  if (why === "takeover" || why === "in_use") return;
  keepUnsent();
  const out = why === "logout";
  const { name } = session.credentials;
  if (out) forgetDrafts();
  session = null;
  keep(null);
  store.clear();
  document.title = "flux";
  history.replaceState(null, "", location.pathname);
  fill(app, signView(why, begin, { detail, who: out ? "" : name }));
}

store.subscribe(() => {
  const { state, why, detail } = store.link;
  if (session && state === "ended") leave(why, detail);
});

window.addEventListener("beforeunload", (event) => {
  if (session?.queue.length || unsent.size) event.preventDefault();
});

const credentials = kept();
if (credentials?.token) begin(credentials);
else fill(app, signView("", begin));
