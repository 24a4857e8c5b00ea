-- Turns that callers named, and the result that they were told, so that the same name never runs again. Times are
-- milliseconds since 1970. `result` is empty where it had to give way to newer ones.
CREATE TABLE turns (
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    cli_session_id TEXT NOT NULL,
    started_ms BIGINT NOT NULL,
    ended_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    interrupted SMALLINT NOT NULL,
    result TEXT NOT NULL,
    PRIMARY KEY (tenant, session_id, turn_id)
);
