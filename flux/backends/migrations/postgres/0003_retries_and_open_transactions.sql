-- Messages that cannot simply be appended, a repeated cid above all, are set aside within append_batch: where append_known
-- failed, which wrote the whole batch into the server's log, the rest of the batch goes the quick way. So it does where
-- a node does not know the chats of some pairs: append_batch looks them up. And what moved is forgotten by snapshots, so
-- that a transaction that stays open, anywhere on the server, holds nothing up.
--
-- Nodes of the version before go on meanwhile, on append_known, append_carefully, create_pair and moves_kept.since. A
-- later migration drops those.

-- All that is visible in gone was removed; what is visible in following will be next. Of transactions from
-- since on nothing was removed: that is for the version before, whose looks are incomplete more often than they need be.
ALTER TABLE moves_kept ADD gone pg_snapshot, ADD following pg_snapshot;
UPDATE moves_kept SET gone = (since::text || ':' || since::text || ':')::pg_snapshot, following = pg_current_snapshot();
ALTER TABLE moves_kept ALTER gone SET NOT NULL, ALTER following SET NOT NULL;

-- What moved so long ago that nobody asks for it: what a snapshot shows that is so many transactions old. Rows stay for
-- at least that many and at most twice as many; those of a transaction that was running then are among the next. Does
-- nothing while another node does it.
CREATE OR REPLACE FUNCTION prune_moves(keep bigint) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    upto pg_snapshot;
BEGIN
    IF NOT pg_try_advisory_xact_lock('moves'::regclass::bigint) THEN
        RETURN;
    END IF;
    SELECT following INTO upto FROM moves_kept;
    IF pg_snapshot_xmax(upto) > pg_snapshot_xmax(pg_current_snapshot()) THEN
        -- A dump that was restored on another server: there transactions have other numbers.
        UPDATE moves_kept SET gone = pg_current_snapshot(), following = pg_current_snapshot(),
            since = pg_snapshot_xmax(pg_current_snapshot());
        DELETE FROM moves;
        RETURN;
    END IF;
    IF pg_snapshot_xmax(pg_current_snapshot())::text::bigint - pg_snapshot_xmax(upto)::text::bigint < keep THEN
        RETURN;
    END IF;
    UPDATE moves_kept SET gone = upto, following = pg_current_snapshot(), since = pg_snapshot_xmax(upto);
    DELETE FROM moves WHERE xact < pg_snapshot_xmax(upto) AND pg_visible_in_snapshot(xact, upto);
END
$$;

-- The chats of those pairs that have none yet and of whom somebody may send. Locks accounts, so that whoever holds chats
-- must not call it. Returns what it has made.
CREATE FUNCTION create_pairs(senders bigint[], tos bigint[]) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    lows  bigint[];
    highs bigint[];
    made  bigint[];
BEGIN
    SELECT array_agg(p.low ORDER BY p.low, p.high), array_agg(p.high ORDER BY p.low, p.high) INTO lows, highs
    FROM (
        SELECT DISTINCT least(d.sender, d.receiver) AS low, greatest(d.sender, d.receiver) AS high
        FROM unnest(senders, tos) d (sender, receiver)
        WHERE NOT EXISTS (SELECT FROM chats c
                WHERE c.low = least(d.sender, d.receiver) AND c.high = greatest(d.sender, d.receiver))
            AND EXISTS (SELECT FROM accounts a WHERE a.id = d.sender)
            AND EXISTS (SELECT FROM accounts a WHERE a.id = d.receiver)
            AND NOT EXISTS (SELECT FROM blocks b WHERE b.uid = d.receiver AND b.blocked = d.sender)
    ) p;
    IF lows IS NULL THEN
        RETURN '{}';
    END IF;
    -- All accounts at once and ascending: pair by pair, the accounts of two transactions could be in opposite order.
    -- Under their locks nobody else makes one of these chats, or blocks one of the two.
    PERFORM lock_accounts(lows || highs);
    WITH new AS (
        INSERT INTO chats (low, high, barred)
        SELECT p.low, p.high, is_barred(p.low, p.high) FROM unnest(lows, highs) p (low, high) ORDER BY p.low, p.high
        ON CONFLICT (low, high) WHERE low IS NOT NULL DO NOTHING RETURNING id, low, high
    ), joined AS (
        INSERT INTO members SELECT m.uid, n.id, 1, 0, 0, 'member' FROM new n, unnest(ARRAY[n.low, n.high]) m (uid)
    )
    SELECT coalesce(array_agg(n.id), '{}') INTO made FROM new n;
    RETURN made;
END
$$;

-- Messages one by one, into chats that the caller has locked (NULL: there is none). Returns a row for each, in no order:
-- nth is its place in the arrays, outcome one of
--
--     new, known (the earlier message: seq and at are its own),
--     reused (the cid, for another text), nobody (no such account), blocked, no group, no member.
CREATE FUNCTION append_singly(
    in_chats bigint[], senders bigint[], tos bigint[], cids text[], texts text[], clock bigint
) RETURNS TABLE (nth bigint, outcome text, chat bigint, seq bigint, at bigint, version bigint)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    draft   record;
    earlier record;
    moved   bigint[] := '{}';
    running bigint;  -- the chat that upto, newest and changed are of
    upto    bigint;
    newest  bigint;
    changed boolean := false;
BEGIN
    FOR draft IN
        SELECT * FROM unnest(in_chats, senders, tos, cids, texts)
            WITH ORDINALITY d (chat, sender, receiver, cid, text, nth)
        ORDER BY d.chat, d.nth
    LOOP
        IF changed AND draft.chat IS DISTINCT FROM running THEN
            UPDATE chats c SET head = upto, at = newest WHERE c.id = running;
            moved := moved || running;
            changed := false;
        END IF;
        nth := draft.nth;
        chat := draft.chat;
        seq := NULL;
        at := NULL;
        version := NULL;
        IF chat IS NULL THEN
            outcome := CASE
                WHEN draft.receiver = 0 THEN 'no group'
                WHEN EXISTS (SELECT FROM accounts a WHERE a.id = draft.receiver)
                    AND EXISTS (SELECT FROM accounts a WHERE a.id = draft.sender) THEN 'blocked'
                ELSE 'nobody'
            END;
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF running IS DISTINCT FROM chat THEN
            running := chat;
            SELECT c.head, greatest(c.at, coalesce(clock, now_ms())) INTO upto, newest FROM chats c WHERE c.id = running;
        END IF;
        SELECT c.version INTO version FROM chats c WHERE c.id = running;
        IF draft.cid <> '' THEN
            SELECT m.seq, m.at, m.text INTO earlier FROM messages m
            WHERE m.cid = draft.cid AND m.cid <> '' AND m.sender = draft.sender AND m.chat = running;
            IF FOUND THEN
                outcome := CASE WHEN earlier.text = draft.text THEN 'known' ELSE 'reused' END;
                seq := earlier.seq;
                at := earlier.at;
                RETURN NEXT;
                CONTINUE;
            END IF;
        END IF;
        IF draft.receiver <> 0 THEN
            IF EXISTS (SELECT FROM blocks b WHERE b.uid = draft.receiver AND b.blocked = draft.sender) THEN
                outcome := 'blocked';
                RETURN NEXT;
                CONTINUE;
            END IF;
        ELSIF NOT EXISTS (SELECT FROM members m WHERE m.uid = draft.sender AND m.chat = running) THEN
            outcome := 'no member';
            RETURN NEXT;
            CONTINUE;
        END IF;
        upto := upto + 1;
        changed := true;
        outcome := 'new';
        seq := upto;
        at := newest;
        INSERT INTO messages VALUES (running, upto, draft.sender, newest, draft.cid, draft.text);
        RETURN NEXT;
    END LOOP;
    IF changed THEN
        UPDATE chats c SET head = upto, at = newest WHERE c.id = running;
        moved := moved || running;
    END IF;
    IF moved <> '{}' THEN
        INSERT INTO moves (heads) VALUES (moved);
    END IF;
END
$$;

-- Messages into chats; nearly all have a new cid, and their senders may send. Those are numbered, inserted and counted in
-- heads. The others are set aside, and append_singly, which finds the chats locked, tells what is to be said of
-- them: they are in apart, as JSON: [place, [outcome, seq, at, version]] each.
--
-- By chat, ids ascending: ids, counts of messages. By sender and group: members, groups. By message: places (in ids),
-- nths (of the chat; 0 repeats one of the same batch), senders, tos (0 in groups), cids, texts.
-- Negative ids stand for pairs of which the node does not know the chats. Those are looked up, made where there are none,
-- and are in pairs, in that order (0: there is none, since who wrote may not make it). Then heads, versions and ats are
-- those of the ids with these in place of the negative ones, ascending again, each once.
-- Also move: the row of moves, as text.
CREATE FUNCTION append_batch(
    ids bigint[], counts bigint[], members bigint[], into_groups bigint[],
    places int[], nths int[], senders bigint[], tos bigint[], cids text[], texts text[], clock bigint
) RETURNS TABLE (pairs bigint[], heads bigint[], versions bigint[], ats bigint[], move text, apart text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    unknown int := 0;
    made    bigint[] := '{}';
    ranks   int[];
    placed  bigint[];
    there   boolean[];  -- NULL: all are
    barred  boolean;
    aside   int[];
    moved   bigint[] := ids;
BEGIN
    IF ids[1] < 0 THEN
        -- Before chats are locked, for this locks accounts.
        SELECT count(*) INTO unknown FROM unnest(ids) u (id) WHERE u.id < 0;
        SELECT create_pairs(array_agg(d.sender), array_agg(d.receiver)) INTO made
        FROM unnest(places, senders, tos) d (place, sender, receiver) WHERE d.place <= unknown;
        SELECT array_agg(
            coalesce((SELECT c.id FROM chats c WHERE c.low = p.low AND c.high = p.high), 0) ORDER BY p.place) INTO pairs
        FROM (
            SELECT DISTINCT d.place, least(d.sender, d.receiver) AS low, greatest(d.sender, d.receiver) AS high
            FROM unnest(places, senders, tos) d (place, sender, receiver) WHERE d.place <= unknown
        ) p;
        -- One of them may be among those that the node knows: from the other one's messages.
        ids := pairs || ids[unknown + 1:];
        SELECT array_agg(u.rank ORDER BY u.place) INTO ranks
        FROM (
            SELECT u.place, (dense_rank() OVER (ORDER BY u.id))::int AS rank FROM unnest(ids) WITH ORDINALITY u (id, place)
        ) u;
        SELECT array_agg(ranks[d.place] ORDER BY d.nth) INTO places FROM unnest(places) WITH ORDINALITY d (place, nth);
        SELECT array_agg(DISTINCT u.id ORDER BY u.id) INTO ids FROM unnest(ids) u (id);
    END IF;
    SELECT array_agg(c.id), array_agg(c.head), array_agg(c.version), array_agg(greatest(c.at, coalesce(clock, now_ms()))), bool_or(c.barred)
    INTO placed, heads, versions, ats, barred
    FROM (SELECT * FROM chats WHERE chats.id = ANY (ids) ORDER BY chats.id FOR NO KEY UPDATE) c;
    IF placed IS DISTINCT FROM ids THEN
        -- Not a join of two arrays, which might be done by comparing each with each.
        SELECT array_agg(u.head ORDER BY u.id), array_agg(u.version ORDER BY u.id), array_agg(u.at ORDER BY u.id),
            array_agg(u.there ORDER BY u.id)
        INTO heads, versions, ats, there
        FROM (
            SELECT u.id, sum(u.head)::bigint AS head, sum(u.version)::bigint AS version, sum(u.at)::bigint AS at,
                bool_or(u.there) AS there
            FROM (
                SELECT p.id, p.head, p.version, p.at, true FROM unnest(placed, heads, versions, ats) p (id, head, version, at)
                UNION ALL
                SELECT m.id, 0, 0, 0, false FROM unnest(ids) m (id)
            ) u (id, head, version, at, there)
            GROUP BY u.id
        ) u;
        SELECT array_agg(d.nth::int) INTO aside FROM unnest(places) WITH ORDINALITY d (place, nth) WHERE NOT there[d.place];
    END IF;
    -- The chats are locked, so there will be no other message with one of these cids. A join, for an EXISTS within a
    -- condition might be answered by reading the whole index.
    aside := aside || (
        SELECT array_agg(d.nth::int)
        FROM unnest(places, senders, cids) WITH ORDINALITY d (place, sender, cid, nth)
        JOIN messages m ON m.cid = d.cid AND m.cid <> '' AND m.sender = d.sender AND m.chat = ids[d.place]
        WHERE d.cid <> '');
    IF barred THEN
        aside := aside || (
            SELECT array_agg(d.nth::int)
            FROM unnest(senders, tos) WITH ORDINALITY d (sender, receiver, nth)
            JOIN blocks b ON b.uid = d.receiver AND b.blocked = d.sender);
    END IF;
    IF members <> '{}' AND EXISTS (
        SELECT FROM unnest(members, into_groups) a (sender, chat)
        WHERE NOT EXISTS (
            SELECT FROM members m JOIN groups g ON g.chat = m.chat WHERE m.uid = a.sender AND m.chat = a.chat)
    ) THEN
        aside := aside || (
            SELECT array_agg(d.nth::int)
            FROM unnest(senders, tos, places) WITH ORDINALITY d (sender, receiver, place, nth)
            WHERE d.receiver = 0 AND NOT EXISTS (
                SELECT FROM members m JOIN groups g ON g.chat = m.chat
                WHERE m.uid = d.sender AND m.chat = ids[d.place]));
    END IF;
    IF aside IS NOT NULL OR unknown > 0 OR 0 = ANY (nths) THEN
        FOR i IN 1 .. coalesce(cardinality(aside), 0) LOOP
            nths[aside[i]] := 0;
        END LOOP;
        SELECT array_agg(CASE WHEN d.n = 0 THEN 0 ELSE d.running END ORDER BY d.nth) INTO nths
        FROM (
            SELECT d.n, d.nth, (row_number() OVER (PARTITION BY d.place, d.n = 0 ORDER BY d.nth))::int AS running
            FROM unnest(places, nths) WITH ORDINALITY d (place, n, nth)
        ) d;
        SELECT array_agg(d.count ORDER BY d.place), array_agg(ids[d.place]) FILTER (WHERE d.count > 0) INTO counts, moved
        FROM (
            SELECT d.place, count(*) FILTER (WHERE d.n > 0) AS count FROM unnest(places, nths) d (place, n) GROUP BY d.place
        ) d;
        SELECT array_agg(d.nth::int ORDER BY d.nth) INTO aside
        FROM unnest(nths) WITH ORDINALITY d (n, nth) WHERE d.n = 0;
    END IF;
    IF moved IS NOT NULL THEN
        INSERT INTO messages (chat, seq, sender, at, cid, text)
        SELECT ids[m.place], heads[m.place] + m.nth, m.sender, ats[m.place], m.cid, m.text
        FROM unnest(places, nths, senders, cids, texts) m (place, nth, sender, cid, text) WHERE m.nth > 0;
        UPDATE chats SET head = chats.head + u.count, at = u.at
        FROM unnest(ids, counts, ats) u (id, count, at) WHERE chats.id = u.id AND u.count > 0;
        INSERT INTO moves (heads, members) VALUES (moved, made) RETURNING xact::text || ' ' || at INTO move;
    END IF;
    IF aside IS NOT NULL THEN
        SELECT json_agg(json_build_array(aside[c.nth], json_build_array(c.outcome, c.seq, c.at, c.version)))::text INTO apart
        FROM (
            SELECT array_agg(CASE
                    WHEN NOT there[d.place] THEN NULL
                    WHEN d.receiver = 0 THEN (SELECT g.chat FROM groups g WHERE g.chat = ids[d.place])
                    ELSE ids[d.place]
                END ORDER BY d.nth) AS in_chats,
                array_agg(d.sender ORDER BY d.nth) AS senders, array_agg(d.receiver ORDER BY d.nth) AS tos,
                array_agg(d.cid ORDER BY d.nth) AS cids, array_agg(d.text ORDER BY d.nth) AS texts
            FROM unnest(places, nths, senders, tos, cids, texts) WITH ORDINALITY
                d (place, n, sender, receiver, cid, text, nth)
            WHERE d.n = 0
        ) d, append_singly(d.in_chats, d.senders, d.tos, d.cids, d.texts, clock) c;
    END IF;
    RETURN NEXT;
END
$$;
