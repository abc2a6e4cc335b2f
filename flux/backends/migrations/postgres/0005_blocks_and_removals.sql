-- Blocking ends a friendship, and nobody accepts the request of somebody with whom there is a block. Who was removed
-- from a group comes back when its owner or an admin adds them.
--
-- Nodes of the version before go on meanwhile, on group_change and group_enter_within: what they remove can come back,
-- and what was removed can come back through them. A later migration drops the latter.

-- What blocking left behind until now.
DELETE FROM friends
WHERE (uid, friend) IN (SELECT b.uid, b.blocked FROM blocks b UNION SELECT b.blocked, b.uid FROM blocks b);
DELETE FROM friend_requests
WHERE (uid, sender) IN (SELECT b.uid, b.blocked FROM blocks b UNION SELECT b.blocked, b.uid FROM blocks b);

-- Returns accepted, rejected, blocked, or NULL where there is no request.
CREATE OR REPLACE FUNCTION friend_answer(
    asked bigint, asking bigint, accept boolean, remark_given text
) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    theirs text;
BEGIN
    PERFORM lock_accounts(ARRAY[asking, asked]);
    SELECT remark INTO theirs FROM friend_requests WHERE uid = asked AND sender = asking;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF accept AND is_barred(asking, asked) THEN
        RETURN 'blocked';
    ELSIF accept THEN
        PERFORM befriend(asked, remark_given, asking, theirs);
        RETURN 'accepted';
    END IF;
    DELETE FROM friend_requests WHERE uid = asked AND sender = asking;
    RETURN 'rejected';
END
$$;

-- As before, and a block ends what was between the two.
CREATE OR REPLACE FUNCTION set_block(blocker bigint, other bigint, wanted boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM lock_accounts(ARRAY[blocker, other]);
    IF wanted THEN
        IF NOT EXISTS (SELECT FROM accounts WHERE id = other) THEN
            RETURN false;
        END IF;
        INSERT INTO blocks VALUES (blocker, other) ON CONFLICT DO NOTHING;
        PERFORM friend_remove(blocker, other);
    ELSE
        DELETE FROM blocks WHERE uid = blocker AND blocked = other;
    END IF;
    UPDATE chats SET barred = is_barred(blocker, other)
    WHERE low = least(blocker, other) AND high = greatest(blocker, other);
    RETURN true;
END
$$;

-- Who was removed from a group, until somebody adds them.
CREATE TABLE removals (
    uid  bigint NOT NULL REFERENCES accounts,
    chat bigint NOT NULL REFERENCES chats,
    PRIMARY KEY (uid, chat)
);

-- group_change for remove.
CREATE FUNCTION group_remove(actor bigint, changing bigint, target bigint)
RETURNS TABLE (outcome text, version bigint, head bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    SELECT c.outcome, c.version, c.head INTO outcome, version, head
    FROM group_change('remove', actor, changing, target, NULL) c;
    IF outcome = 'changed' THEN
        -- One of an earlier membership may be there, of somebody whom a node of the version before has let in.
        INSERT INTO removals VALUES (target, changing) ON CONFLICT DO NOTHING;
    END IF;
    RETURN NEXT;
END
$$;

-- group_change for join and add; the outcome may also be full (target would be in more than so many groups), or removed.
CREATE FUNCTION group_enter(
    kind text, actor bigint, changing bigint, target bigint, most bigint
) RETURNS TABLE (outcome text, version bigint, head bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    PERFORM lock_accounts(ARRAY[target]);
    SELECT c.outcome, c.version, c.head INTO outcome, version, head
    FROM group_change(kind, actor, changing, target, NULL) c;
    -- From here on the chat is locked. What is undone was done before, so that whatever else stands in the way is
    -- told first.
    IF outcome = 'changed' AND kind = 'join' AND EXISTS (
        SELECT FROM removals r WHERE r.uid = target AND r.chat = changing
    ) THEN
        RAISE SQLSTATE 'FXOUT';
    ELSIF outcome = 'changed' AND groups_of(target) > most THEN
        RAISE SQLSTATE 'FXFUL';
    ELSIF outcome = 'changed' THEN
        DELETE FROM removals r WHERE r.uid = target AND r.chat = changing;
    END IF;
    RETURN NEXT;
EXCEPTION
    WHEN SQLSTATE 'FXOUT' THEN
        outcome := 'removed';
        RETURN NEXT;
    WHEN SQLSTATE 'FXFUL' THEN
        outcome := 'full';
        RETURN NEXT;
END
$$;
