-- Messages that cannot simply be appended, a repeated cid above all, are set aside within append_known: that fails no
-- more, which wrote the whole batch into the server's log, and the rest of the batch goes the quick way. And what moved
-- is forgotten by snapshots, so that a transaction that stays open, anywhere on the server, holds nothing up.

-- What each row of moves_kept says: all that is visible in gone was removed; what is visible in following will be next.
ALTER TABLE moves_kept ADD gone pg_snapshot, ADD following pg_snapshot;
UPDATE moves_kept SET gone = (since::text || ':' || since::text || ':')::pg_snapshot, following = pg_current_snapshot();
ALTER TABLE moves_kept ALTER gone SET NOT NULL, ALTER following SET NOT NULL, DROP since;

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
        UPDATE moves_kept SET gone = pg_current_snapshot(), following = pg_current_snapshot();
        DELETE FROM moves;
        RETURN;
    END IF;
    IF pg_snapshot_xmax(pg_current_snapshot())::text::bigint - pg_snapshot_xmax(upto)::text::bigint < keep THEN
        RETURN;
    END IF;
    UPDATE moves_kept SET gone = upto, following = pg_current_snapshot();
    DELETE FROM moves WHERE xact < pg_snapshot_xmax(upto) AND pg_visible_in_snapshot(xact, upto);
END
$$;

-- Messages into chats, most of which exist; of those messages nearly all have a new cid, and their senders may send.
-- Those are numbered, inserted and counted in heads. The others are set aside, and append_carefully, which finds the chats
-- locked, tells what is to be said of them: they are in apart, as JSON: [place, [outcome, seq, at, version]] each.
--
-- By chat, ids ascending: ids, counts of messages. By sender and group: members, groups. By message: places (in ids),
-- nths (of the chat; 0 repeats one of the same batch), senders, tos (0 in groups), cids, texts.
-- Also move: the row of moves, as text.
DROP FUNCTION append_known;
CREATE FUNCTION append_known(
    ids bigint[], counts bigint[], members bigint[], into_groups bigint[],
    places int[], nths int[], senders bigint[], tos bigint[], cids text[], texts text[], clock bigint
) RETURNS TABLE (heads bigint[], versions bigint[], ats bigint[], move text, apart text)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    placed bigint[];
    barred boolean;
    aside  int[];
    moved  bigint[] := ids;
BEGIN
    SELECT array_agg(c.id), array_agg(c.head), array_agg(c.version), array_agg(greatest(c.at, coalesce(clock, now_ms()))), bool_or(c.barred)
    INTO placed, heads, versions, ats, barred
    FROM (SELECT * FROM chats WHERE chats.id = ANY (ids) ORDER BY chats.id FOR NO KEY UPDATE) c;
    IF placed IS DISTINCT FROM ids THEN
        FOR i IN 1 .. cardinality(ids) LOOP
            IF placed[i] IS DISTINCT FROM ids[i] THEN
                placed := placed[:i - 1] || ids[i] || placed[i:];
                heads := heads[:i - 1] || 0::bigint || heads[i:];
                versions := versions[:i - 1] || 0::bigint || versions[i:];
                ats := ats[:i - 1] || 0::bigint || ats[i:];
                aside := aside || (
                    SELECT array_agg(d.nth::int) FROM unnest(places) WITH ORDINALITY d (place, nth) WHERE d.place = i);
            END IF;
        END LOOP;
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
    IF aside IS NOT NULL OR 0 = ANY (nths) THEN
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
        INSERT INTO moves (heads) VALUES (moved) RETURNING xact::text || ' ' || at INTO move;
    END IF;
    IF aside IS NOT NULL THEN
        SELECT json_agg(json_build_array(aside[c.nth], json_build_array(c.outcome, c.seq, c.at, c.version)))::text INTO apart
        FROM (
            SELECT array_agg(d.sender ORDER BY d.nth) AS senders, array_agg(d.receiver ORDER BY d.nth) AS tos,
                array_agg(CASE WHEN d.receiver = 0 THEN ids[d.place] ELSE 0 END ORDER BY d.nth) AS into_groups,
                array_agg(d.cid ORDER BY d.nth) AS cids, array_agg(d.text ORDER BY d.nth) AS texts
            FROM unnest(places, nths, senders, tos, cids, texts) WITH ORDINALITY
                d (place, n, sender, receiver, cid, text, nth)
            WHERE d.n = 0
        ) d, append_carefully(d.senders, d.tos, d.into_groups, d.cids, d.texts, clock) c;
    END IF;
    RETURN NEXT;
END
$$;
