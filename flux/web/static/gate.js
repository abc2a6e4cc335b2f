// The gate's HTTP API: what happens before there is a connection, and where to connect.

import { Refused } from "./link.js";

const ANSWER_WITHIN = 30_000;

async function call(method, path, body, authorization) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (authorization) headers.authorization = authorization;
  let response, answer;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(ANSWER_WITHIN),
      credentials: "omit",
      cache: "no-store",
    });
    answer = await response.json();
  } catch {
    throw new Refused({ name: "unreachable", detail: "The server cannot be reached. Try again in a moment." });
  }
  if (!response.ok) throw new Refused(answer);
  return answer;
}

/** What registering takes, and whether codes reach people: {code_required, password_min, codes_sent}. */
export const rules = () => call("GET", "v1/rules");

/** Send a verification code; `purpose` is "register" or "reset". */
export const sendCode = (email, purpose) => call("POST", "v1/codes", { email, purpose });

export const register = (account) => call("POST", "v1/accounts", account);

export const resetPassword = (fields) => call("POST", "v1/password/reset", fields);

/** Log in with a name or an e-mail address: what a session needs. */
export async function logIn(who, password) {
  const attempt = async (known) => {
    const found = await call("POST", "v1/login", { ...known, password });
    return { ...place(found), name: found.name };
  };
  if (!/^[^@\s]+@[^@\s]+$/.test(who)) return attempt({ name: who });
  try {
    return await attempt({ email: who });
  } catch (error) {
    // A name may look like an address.
    if (error.name === "password_invalid" || error.name === "bad_request") return attempt({ name: who });
    throw error;
  }
}

/** Where to connect now, for who has a token already. */
export async function locate(id, token) {
  return place(await call("POST", "v1/server", undefined, bearer(id, token)));
}

/** One's own account, with its verified e-mail address. */
export const account = ({ id, token }) => call("GET", "v1/profile", undefined, bearer(id, token));

/** Change one's own account; an address comes with its code, and with the password where there was another one. */
export const changeAccount = ({ id, token }, fields) => call("PATCH", "v1/profile", fields, bearer(id, token));

function bearer(id, token) {
  return `Bearer ${id}:${token}`;
}

function place({ id, token, websocket }) {
  return { id, token, websocket };
}

/** Where to connect to another server, for who was told to move; empty where that is not known. */
export function movedAddress(before, { server, websocket }) {
  const url = new URL(before, location.href);
  if (!url.searchParams.has("server")) return websocket ?? "";
  // All servers are reached through the gate, as the one before was.
  url.searchParams.set("server", server);
  return server ? `${url.pathname}${url.search}` : "";
}

/** The address of a WebSocket, which may be given relative to this page. */
export function socketAddress(websocket) {
  const url = new URL(websocket || "ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : url.protocol === "http:" ? "ws:" : url.protocol;
  url.hash = "";
  return url.href;
}
