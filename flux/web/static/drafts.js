// What is written in a conversation and was not sent: kept for as long as this tab lives, for one account at a time.

const KEPT = "flux.drafts";

/** The account's id, and what is written there by the key of the conversation. */
let drafts = kept();

function kept() {
  try {
    const { account, texts } = JSON.parse(sessionStorage.getItem(KEPT));
    return { account, texts: new Map(texts) };
  } catch {
    return { account: 0, texts: new Map() };
  }
}

/** The draft of a conversation; empty where there is none. */
export function draft(account, key) {
  return drafts.account === account ? drafts.texts.get(key) ?? "" : "";
}

/** Keep a draft, or with an empty text forget it; those of another account are forgotten. */
export function keepDraft(account, key, text) {
  if (drafts.account !== account) drafts = { account, texts: new Map() };
  if (text) drafts.texts.set(key, text);
  else drafts.texts.delete(key);
  try {
    if (drafts.texts.size) sessionStorage.setItem(KEPT, JSON.stringify({ account, texts: [...drafts.texts] }));
    else sessionStorage.removeItem(KEPT);
  } catch {
    // Longer than a browser keeps; it is here until the page is loaded again.
  }
}

export function forgetDrafts() {
  drafts = { account: 0, texts: new Map() };
  sessionStorage.removeItem(KEPT);
}
