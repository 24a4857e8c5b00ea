-- What the store knows of itself, in one row. Every transaction counts itself: after a commit whose outcome was not
-- told, the number says whether it took effect. `observed_ms` is time that services on this database have seen pass
-- by a clock that nobody sets; conversations age by it, and not by the clock on the wall. `ballast` is rewritten to
-- try whether there is room.
CREATE TABLE store_state (
    id SMALLINT NOT NULL PRIMARY KEY,
    transactions BIGINT NOT NULL,
    observed_ms BIGINT NOT NULL,
    ballast TEXT NOT NULL
);

INSERT INTO store_state (id, transactions, observed_ms, ballast) VALUES (1, 0, 0, '');

-- When a session was made and last used, by the observed clock. Those that are there already begin to age now.
ALTER TABLE sessions ADD COLUMN created_observed_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN used_observed_ms BIGINT NOT NULL DEFAULT 0;

DROP INDEX sessions_by_last_use;
CREATE INDEX sessions_by_observed_use ON sessions (used_observed_ms);
