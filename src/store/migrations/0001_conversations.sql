-- Conversations, what was said in them, and what was counted. Plain SQL that PostgreSQL takes too: times are
-- milliseconds since 1970, options and counters are JSON.

CREATE TABLE sessions (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    cli_session_id TEXT NOT NULL,
    options TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    last_used_ms BIGINT NOT NULL,
    message_count BIGINT NOT NULL,
    error_count BIGINT NOT NULL,
    spent TEXT NOT NULL,
    -- Cost that the conversation's process had reported: some versions of the CLI go on counting from there.
    reported_cost_usd DOUBLE PRECISION NOT NULL,
    -- 1 while the session is in the pool, with or without a process; 0 when only its conversation is kept.
    in_pool SMALLINT NOT NULL,
    -- Which service may write, and since which change of owner; for when there is more than one.
    owner TEXT NOT NULL DEFAULT '',
    epoch BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, session_id)
);

CREATE INDEX sessions_by_last_use ON sessions (last_used_ms);

-- Every conversation that a session ever had: `/clear` and `new_conversation` begin another.
CREATE TABLE conversations (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    cli_session_id TEXT NOT NULL,
    PRIMARY KEY (tenant, session_id, cli_session_id)
);

CREATE INDEX conversations_by_id ON conversations (tenant, cli_session_id);

-- Lines of transcripts. `subpath` is empty for the conversation itself, else the file of a subagent.
CREATE TABLE entries (
    tenant TEXT NOT NULL,
    cli_session_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    subpath TEXT NOT NULL,
    uuid TEXT,
    line TEXT NOT NULL,
    PRIMARY KEY (tenant, cli_session_id, seq)
);

-- An entry that comes twice is kept once; entries without a uuid are never the same.
CREATE UNIQUE INDEX entries_by_uuid ON entries (tenant, cli_session_id, subpath, uuid);

CREATE TABLE totals (
    tenant TEXT NOT NULL,
    counters TEXT NOT NULL,
    PRIMARY KEY (tenant)
);
