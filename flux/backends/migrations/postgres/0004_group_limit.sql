-- Of how many groups an account may be a member: the functions that make one so, with a bound. Its row is locked
-- before the chat's, as everywhere, so two of them do not both find room.

CREATE FUNCTION groups_of(who bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT count(*) FROM members m JOIN groups g ON g.chat = m.chat WHERE m.uid = who
$$;

-- group_create; NULL where the owner is in as many groups already.
CREATE FUNCTION group_create_within(
    owner bigint, group_name text, group_description text, is_closed boolean, has_open_history boolean, most bigint
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM lock_accounts(ARRAY[owner]);
    IF groups_of(owner) >= most THEN
        RETURN NULL;
    END IF;
    RETURN group_create(owner, group_name, group_description, is_closed, has_open_history);
END
$$;

-- group_change for join and add; the outcome may also be full: target would be in more than so many groups.
CREATE FUNCTION group_enter_within(
    kind text, actor bigint, changing bigint, target bigint, most bigint
) RETURNS TABLE (outcome text, version bigint, head bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    PERFORM lock_accounts(ARRAY[target]);
    SELECT c.outcome, c.version, c.head INTO outcome, version, head
    FROM group_change(kind, actor, changing, target, NULL) c;
    IF outcome = 'changed' AND groups_of(target) > most THEN
        -- Undone, but all that stands in the way otherwise was told first.
        RAISE SQLSTATE 'FXFUL';
    END IF;
    RETURN NEXT;
EXCEPTION WHEN SQLSTATE 'FXFUL' THEN
    outcome := 'full';
    RETURN NEXT;
END
$$;
