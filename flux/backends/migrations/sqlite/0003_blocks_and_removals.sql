-- Blocking ends a friendship. This is what it has left behind until now.
DELETE FROM friends WHERE (uid, friend) IN (SELECT uid, blocked FROM blocks UNION SELECT blocked, uid FROM blocks);
DELETE FROM friend_requests
WHERE (uid, sender) IN (SELECT uid, blocked FROM blocks UNION SELECT blocked, uid FROM blocks);

-- Who was removed from a group, until its owner or an admin adds them.
CREATE TABLE removals (
    uid  INTEGER NOT NULL REFERENCES accounts,
    chat INTEGER NOT NULL REFERENCES chats,
    PRIMARY KEY (uid, chat)
) STRICT, WITHOUT ROWID;
