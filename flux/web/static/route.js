// Which conversation is open: the part of the address after the #.

const ROUTE = /^#\/([ug]\/[1-9][0-9]{0,15})$/;

/** The key of the conversation that the address names; empty where it names none. */
export function route() {
  return ROUTE.exec(location.hash)?.[1] ?? "";
}

/** Open a conversation, or with an empty key none. */
export function go(key) {
  location.hash = key ? `/${key}` : "/";
}
