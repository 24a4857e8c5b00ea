-- Conversations, what was said in them, what was counted, and whose sessions are. The columns that SQLite has too mean
-- the same there. Texts are ordered by their bytes, as names are everywhere in the service, whatever the locale of the
-- database is. Times in milliseconds are by the database's clock where their names say "observed".

-- Services that have this database, one row for each name. `incarnation` is another one at each start. A node whose
-- heartbeat is older than its own lease is dead. `ballast` is written to try whether there is room.
CREATE TABLE nodes (
    name TEXT COLLATE "C" NOT NULL,
    incarnation TEXT COLLATE "C" NOT NULL,
    address TEXT NOT NULL,
    heartbeat TIMESTAMPTZ NOT NULL,
    lease_ms BIGINT NOT NULL,
    draining BOOLEAN NOT NULL,
    ballast TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (name)
) WITH (fillfactor = 50);

-- What is compressed would show nothing of the room that there is.
ALTER TABLE nodes ALTER COLUMN ballast SET STORAGE EXTERNAL;

-- The last transaction of each slot by which a node writes: after a COMMIT without an answer it says whether that took
-- effect. It is locked until the transaction has ended.
CREATE TABLE transactions (
    incarnation TEXT COLLATE "C" NOT NULL,
    slot BIGINT NOT NULL,
    commit_id TEXT NOT NULL,
    PRIMARY KEY (incarnation, slot)
) WITH (fillfactor = 50);

CREATE TABLE sessions (
    tenant TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    cli_session_id TEXT COLLATE "C" NOT NULL,
    options TEXT NOT NULL,
    acquired TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    last_used_ms BIGINT NOT NULL,
    created_observed_ms BIGINT NOT NULL,
    used_observed_ms BIGINT NOT NULL,
    message_count BIGINT NOT NULL,
    error_count BIGINT NOT NULL,
    spent TEXT NOT NULL,
    reported_cost_usd DOUBLE PRECISION NOT NULL,
    in_pool BIGINT NOT NULL,
    -- Whose it is: the incarnation, empty once it was given back; the name of its node; and which claim it is.
    owner TEXT COLLATE "C" NOT NULL,
    owner_name TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    PRIMARY KEY (tenant, session_id)
);

CREATE INDEX sessions_by_observed_use ON sessions (used_observed_ms);
CREATE INDEX sessions_in_pool_by_name ON sessions (tenant, session_id) WHERE in_pool = 1;
CREATE INDEX sessions_in_pool_by_use ON sessions (used_observed_ms, tenant, session_id) WHERE in_pool = 1;

-- Every conversation that a session ever had. It has one session: of two that take it at once the key lets one in.
CREATE TABLE conversations (
    tenant TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    cli_session_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, cli_session_id)
);

CREATE INDEX conversations_by_session ON conversations (tenant, session_id);

-- Lines of transcripts. Entry 0 is the mark of one that is being taken up; its line is the incarnation that does so.
CREATE TABLE entries (
    tenant TEXT COLLATE "C" NOT NULL,
    cli_session_id TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    subpath TEXT COLLATE "C" NOT NULL,
    uuid TEXT COLLATE "C",
    line TEXT NOT NULL,
    PRIMARY KEY (tenant, cli_session_id, seq)
);

CREATE UNIQUE INDEX entries_by_uuid ON entries (tenant, cli_session_id, subpath, uuid);

CREATE TABLE turns (
    tenant TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    turn_id TEXT COLLATE "C" NOT NULL,
    client_id TEXT NOT NULL,
    cli_session_id TEXT COLLATE "C" NOT NULL,
    started_ms BIGINT NOT NULL,
    ended_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    interrupted BIGINT NOT NULL,
    result TEXT NOT NULL,
    PRIMARY KEY (tenant, session_id, turn_id)
);

CREATE TABLE counts (
    tenant TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE costs (
    tenant TEXT COLLATE "C" NOT NULL,
    day BIGINT NOT NULL,
    cost_usd DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (tenant, day)
);

CREATE TABLE counted (
    tenant TEXT COLLATE "C" NOT NULL,
    writer TEXT COLLATE "C" NOT NULL,
    observed_ms BIGINT NOT NULL,
    totals TEXT NOT NULL,
    PRIMARY KEY (tenant, writer)
) WITH (fillfactor = 50);

-- How many sessions of a tenant are in the pool, kept beside them. Several rows for each tenant, so that those who make
-- sessions of one tenant at once seldom wait for each other; which one is a matter of the session's name.
CREATE TABLE pool_sizes (
    tenant TEXT COLLATE "C" NOT NULL,
    part INTEGER NOT NULL,
    sessions BIGINT NOT NULL,
    PRIMARY KEY (tenant, part)
) WITH (fillfactor = 50);

CREATE FUNCTION count_session_in_pool() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.in_pool = 1 THEN
        UPDATE pool_sizes SET sessions = sessions - 1
        WHERE tenant = OLD.tenant AND part = hashtext(OLD.session_id) & 15;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.in_pool = 1 THEN
        INSERT INTO pool_sizes (tenant, part, sessions) VALUES (NEW.tenant, hashtext(NEW.session_id) & 15, 1)
        ON CONFLICT (tenant, part) DO UPDATE SET sessions = pool_sizes.sessions + 1;
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER session_is_made AFTER INSERT ON sessions FOR EACH ROW
    WHEN (NEW.in_pool = 1) EXECUTE FUNCTION count_session_in_pool();
CREATE TRIGGER session_is_changed AFTER UPDATE OF in_pool ON sessions FOR EACH ROW
    WHEN (NEW.in_pool <> OLD.in_pool) EXECUTE FUNCTION count_session_in_pool();
CREATE TRIGGER session_is_forgotten AFTER DELETE ON sessions FOR EACH ROW
    WHEN (OLD.in_pool = 1) EXECUTE FUNCTION count_session_in_pool();
