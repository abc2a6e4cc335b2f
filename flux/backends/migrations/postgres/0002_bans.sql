-- Who is kept out: an account, or the addresses of a network. Exactly one of the two is given; the other one
-- is 0, or empty. The network comes first in the key, since every server reads all of those now and then.
CREATE TABLE bans (
    network text COLLATE "C" NOT NULL,  -- 10.0.0.0/8
    uid     bigint NOT NULL,
    reason  text NOT NULL,
    at      bigint NOT NULL,
    until   bigint NOT NULL,            -- 0: for ever
    PRIMARY KEY (network, uid)
);
CREATE INDEX bans_by_time ON bans (at);
CREATE INDEX bans_by_end ON bans (until) WHERE until > 0;
