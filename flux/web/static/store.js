// Everything the page shows: conversations with their messages, people, groups. No network, no page.
//
// A conversation is known by its key, "u/2" or "g/5": whom it is with. The server's number of the chat comes
// with the first message. A message is known by its chat and its number `seq` in it, so what comes twice is kept once.

const TYPING_FOR = 6_000;

/** Calls listeners, once for many changes made in one go. */
export class Store {
  constructor() {
    this.listeners = new Set();
    this.changed = false;
    this.clear();
  }

  clear() {
    this.me = null;
    this.link = { state: "starting" };
    this.conversations = new Map();
    this.byChat = new Map();
    this.friends = new Map();
    this.requests = new Map();
    this.groups = new Map();
    this.names = new Map();
    this.change();
  }

  /** Call `listener` after changes, from now on; returns what ends that. */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  change() {
    if (this.changed) return;
    this.changed = true;
    queueMicrotask(() => {
      this.changed = false;
      for (const listener of this.listeners) listener();
    });
  }

  setLink(link) {
    this.link = link;
    this.change();
  }

  // --- who and what there is ---

  /** What `login.ok` says. */
  loggedIn(reply) {
    this.me = { id: reply.id, name: reply.name, nick: reply.nick, description: reply.description };
    this.names.set(reply.id, reply.name);
    this.setFriends(reply.friends);
    this.setRequests(reply.friend_requests);
    this.setGroups(reply.groups);
    for (const conversation of this.conversations.values()) conversation.unread = 0;
    for (const { chat, to, group, count, head } of reply.unread) {
      const conversation = this.conversation(to ? `u/${to}` : `g/${group}`);
      this.identify(conversation, chat);
      this.setUnread(conversation, count, head);
    }
    this.change();
  }

  setFriends(friends) {
    this.friends = new Map(friends.map((friend) => [friend.id, friend]));
    for (const { id, name } of friends) this.names.set(id, name);
    this.change();
  }

  setRequests(requests) {
    this.requests = new Map(requests.map((request) => [request.from, request]));
    for (const { from, name } of requests) this.names.set(from, name);
    this.change();
  }

  setGroups(groups) {
    this.groups = new Map(groups.map((group) => [group.group, { ...this.groups.get(group.group), ...group }]));
    for (const group of groups) this.identify(this.conversation(`g/${group.group}`), group.chat);
    for (const [key, conversation] of this.conversations) {
      if (conversation.kind === "group" && !this.groups.has(conversation.id)) this.forget(key);
    }
    this.change();
  }

  /** What `chats` says. */
  setChats(chats) {
    for (const entry of chats) {
      const conversation = this.conversation(entry.to ? `u/${entry.to}` : `g/${entry.group}`);
      this.identify(conversation, entry.chat);
      conversation.name = entry.name;
      if (entry.to) this.names.set(entry.to, entry.name);
      conversation.read = Math.max(conversation.read, entry.read);
      conversation.readBy = Math.max(conversation.readBy, entry.read_by ?? 0);
      this.setUnread(conversation, entry.unread, entry.last.seq);
      if (!conversation.last || entry.last.seq >= conversation.last.seq) conversation.last = entry.last;
    }
    this.change();
  }

  /** What the server counts as unread up to `counted`; what has come since is added. */
  setUnread(conversation, count, counted) {
    const since = conversation.messages.filter((m) => m.seq > counted && m.seq > conversation.read && m.from !== this.me.id);
    conversation.unread = count + since.length;
    conversation.counted = Math.max(conversation.counted, counted);
  }

  presence(id, online) {
    const friend = this.friends.get(id);
    if (friend) friend.online = online;
    this.change();
  }

  /** In words, whether a friend is there; empty where that is not known: of others, and without a connection. */
  whether(id) {
    const friend = this.friends.get(id);
    if (!friend || this.link.state !== "online") return "";
    return friend.online ? "Online" : "Offline";
  }

  isOnline(id) {
    return this.whether(id) === "Online";
  }

  /** The conversation of a key, made if there is none. */
  conversation(key) {
    let conversation = this.conversations.get(key);
    if (!conversation) {
      const id = Number(key.slice(2));
      conversation = {
        key, id, kind: key[0] === "g" ? "group" : "person", chat: 0, name: "",
        messages: [], outgoing: [], events: [],
        loaded: false, loading: false, more: false, trouble: "",
        unread: 0, counted: 0, read: 0, last: null, readBy: 0, typing: new Map(),
      };
      this.conversations.set(key, conversation);
    }
    return conversation;
  }

  identify(conversation, chat) {
    if (chat && conversation.chat !== chat) {
      conversation.chat = chat;
      this.byChat.set(chat, conversation);
    }
  }

  forget(key) {
    const conversation = this.conversations.get(key);
    if (conversation) this.byChat.delete(conversation.chat);
    this.conversations.delete(key);
    this.change();
  }

  title(conversation) {
    if (conversation.kind === "group") return this.groups.get(conversation.id)?.name ?? (conversation.name || `Group ${conversation.id}`);
    const friend = this.friends.get(conversation.id);
    return friend?.remark || friend?.nick || this.names.get(conversation.id) || conversation.name || `User ${conversation.id}`;
  }

  nameOf(id) {
    return this.names.get(id) ?? `User ${id}`;
  }

  // --- messages ---

  keyOf(message) {
    if (message.group) return `g/${message.group}`;
    return `u/${message.from === this.me.id ? message.to : message.from}`;
  }

  /** Add messages, whatever is there already; returns those that are new. */
  add(messages) {
    const fresh = [];
    for (const message of messages) {
      const conversation = this.conversation(this.keyOf(message));
      this.identify(conversation, message.chat);
      if (message.name) this.names.set(message.from, message.name);
      if (insert(conversation.messages, message)) fresh.push(message);
      if (!conversation.last || message.seq >= conversation.last.seq) conversation.last = message;
      conversation.typing.delete(message.from);
    }
    this.change();
    return fresh;
  }

  /** A message that somebody else has just written; false where it is known. */
  receive(message) {
    const [fresh] = this.add([message]);
    if (!fresh) return false;
    const conversation = this.byChat.get(message.chat);
    if (message.seq > conversation.read && message.seq > conversation.counted) conversation.unread += 1;
    return true;
  }

  /** A page of history; `newest` where nothing comes after it. */
  addHistory(conversation, { messages, more }, newest) {
    const oldest = conversation.messages[0]?.seq ?? Infinity;
    this.add(messages);
    if (!messages.length || messages[0].seq <= oldest) conversation.more = more;
    conversation.loaded = true;
    if (!newest || !messages.length) return;
    // What is between the page and what was there before may not be known: it will be read when scrolled to.
    const known = conversation.messages;
    let first = known.findIndex((message) => message.seq === messages[0].seq);
    while (first > 0 && known[first - 1].seq === known[first].seq - 1) first -= 1;
    if (first > 0) {
      known.splice(0, first);
      conversation.more = true;
    }
  }

  markRead(conversation, seq) {
    conversation.read = Math.max(conversation.read, seq);
    conversation.unread = 0;
    this.change();
  }

  /** Another member has read up to `seq`. */
  readBy(chat, seq) {
    const conversation = this.byChat.get(chat);
    if (!conversation) return;
    conversation.readBy = Math.max(conversation.readBy, seq);
    this.change();
  }

  typing(chat, id) {
    const conversation = this.byChat.get(chat);
    if (!conversation) return;
    clearTimeout(conversation.typing.get(id));
    conversation.typing.set(id, setTimeout(() => {
      conversation.typing.delete(id);
      this.change();
    }, TYPING_FOR));
    this.change();
  }

  // --- groups ---

  setMembers(group, members) {
    const entry = this.groups.get(group);
    if (!entry) return;
    entry.members = members;
    for (const { id, name } of members) this.names.set(id, name);
    entry.role = members.find((member) => member.id === this.me.id)?.role ?? entry.role;
    this.change();
  }

  /** Something to tell between the messages. */
  note(conversation, text) {
    const after = conversation.messages.at(-1)?.seq ?? 0;
    conversation.events.push({ id: unique(), after, text });
    this.change();
  }
}

/** A name that nothing else has. (Pages that came by plain HTTP have no `crypto.randomUUID`.) */
export function unique() {
  const random = [...crypto.getRandomValues(new Uint8Array(8))];
  return random.map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Put a message in its place; false where it is there already. */
function insert(messages, message) {
  let index = messages.length;
  while (index > 0 && messages[index - 1].seq > message.seq) index -= 1;
  const known = messages[index - 1];
  if (known?.seq === message.seq) {
    if (known.at === message.at) return false;
    // The same number at another time is another message: the server was set back.
    messages[index - 1] = message;
    return true;
  }
  messages.splice(index, 0, message);
  return true;
}
