-- Accounts, friends, chats, messages.

CREATE TABLE accounts (
    id            INTEGER PRIMARY KEY,
    name          TEXT NOT NULL,
    key           TEXT NOT NULL UNIQUE,  -- the name folded
    password_hash TEXT NOT NULL,
    email         TEXT NOT NULL,         -- as it was given
    verified      TEXT UNIQUE,           -- the address folded, where its owner has proved it
    nick          TEXT NOT NULL,
    description   TEXT NOT NULL DEFAULT '',
    sex           TEXT NOT NULL DEFAULT '',
    icon          TEXT NOT NULL DEFAULT ''
) STRICT;

-- The newest session number of each account. Apart from accounts, because every login
-- writes it: hundreds of these rows share the page that one commit has to write.
CREATE TABLE sessions (
    uid    INTEGER PRIMARY KEY REFERENCES accounts,
    number INTEGER NOT NULL
) STRICT;

CREATE TABLE boots (
    node TEXT PRIMARY KEY,
    boot INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE friends (
    uid    INTEGER NOT NULL REFERENCES accounts,
    friend INTEGER NOT NULL REFERENCES accounts,
    remark TEXT NOT NULL,
    mutual INTEGER NOT NULL,  -- 0: one-sided, the other has not accepted
    PRIMARY KEY (uid, friend)
) STRICT, WITHOUT ROWID;

CREATE TABLE friend_requests (
    uid    INTEGER NOT NULL REFERENCES accounts,  -- who has to answer
    sender INTEGER NOT NULL REFERENCES accounts,
    note   TEXT NOT NULL,
    remark TEXT NOT NULL,  -- what the sender will call uid once accepted
    at     INTEGER NOT NULL,
    PRIMARY KEY (uid, sender)
) STRICT, WITHOUT ROWID;

CREATE TABLE blocks (
    uid     INTEGER NOT NULL REFERENCES accounts,
    blocked INTEGER NOT NULL REFERENCES accounts,
    PRIMARY KEY (uid, blocked)
) STRICT, WITHOUT ROWID;

-- One-to-one chats (low and high: the two accounts) and groups (both NULL).
CREATE TABLE chats (
    id      INTEGER PRIMARY KEY,
    low     INTEGER REFERENCES accounts,
    high    INTEGER REFERENCES accounts,
    version INTEGER NOT NULL DEFAULT 1  -- raised by every change of members
) STRICT;
CREATE UNIQUE INDEX chats_by_pair ON chats (low, high) WHERE low IS NOT NULL;

CREATE TABLE groups (
    chat         INTEGER PRIMARY KEY REFERENCES chats,
    name         TEXT NOT NULL,
    description  TEXT NOT NULL,
    closed       INTEGER NOT NULL,
    open_history INTEGER NOT NULL
) STRICT;

-- Members of chats of both kinds. By account first: a login reads all chats of one.
CREATE TABLE members (
    uid      INTEGER NOT NULL REFERENCES accounts,
    chat     INTEGER NOT NULL REFERENCES chats,
    first    INTEGER NOT NULL,
    received INTEGER NOT NULL,
    read     INTEGER NOT NULL,
    role     TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    PRIMARY KEY (uid, chat)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_chat ON members (chat, uid, first);

-- Messages lie in the order of their commits, so that a batch of them writes few pages. For
-- the same reason the index of cids has the cid first: clients whose cids ascend with time
-- append to it; random ones cost one page of the index each.
CREATE TABLE messages (
    id     INTEGER PRIMARY KEY,
    chat   INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    sender INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    cid    TEXT NOT NULL,
    text   TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_by_cid ON messages (cid, sender, chat) WHERE cid <> '';

-- Which messages a chat has. A run is what came into a chat within one batch: its messages
-- have successive seqs and successive ids, and seq and id here are those of its last one.
--
-- The runs are in two parts. Those of a batch of a hundred chats are a hundred pages in a
-- large table and a few in a small one, so they come into recent_runs and are moved to runs
-- some thousand messages at a time. Of one chat, those in recent_runs follow those in runs.
--
-- This is also the only thing that says how far a chat has come: its head is its highest
-- seq. Whoever prunes history keeps the newest run of each chat, or its seqs would be given
-- again.
CREATE TABLE runs (
    chat   INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    sender INTEGER NOT NULL,  -- 0: several
    id     INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (chat, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE recent_runs (
    chat   INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    sender INTEGER NOT NULL,  -- 0: several
    id     INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (chat, seq)
) STRICT, WITHOUT ROWID;
