-- How many sessions of a tenant are in the pool, kept beside them: nobody counts rows to know it. The indexes are for
-- those in the pool alone, which are few among all whose conversation is kept.
CREATE TABLE pool_sizes (
    tenant TEXT NOT NULL,
    sessions BIGINT NOT NULL,
    PRIMARY KEY (tenant)
);

INSERT INTO pool_sizes (tenant, sessions) SELECT tenant, COUNT(*) FROM sessions WHERE in_pool = 1 GROUP BY tenant;

CREATE TRIGGER session_begins_in_pool AFTER INSERT ON sessions WHEN NEW.in_pool = 1
BEGIN
    INSERT INTO pool_sizes (tenant, sessions) VALUES (NEW.tenant, 1)
    ON CONFLICT (tenant) DO UPDATE SET sessions = pool_sizes.sessions + 1;
END;

CREATE TRIGGER session_enters_pool AFTER UPDATE OF in_pool ON sessions WHEN NEW.in_pool = 1 AND OLD.in_pool <> 1
BEGIN
    INSERT INTO pool_sizes (tenant, sessions) VALUES (NEW.tenant, 1)
    ON CONFLICT (tenant) DO UPDATE SET sessions = pool_sizes.sessions + 1;
END;

CREATE TRIGGER session_leaves_pool AFTER UPDATE OF in_pool ON sessions WHEN NEW.in_pool <> 1 AND OLD.in_pool = 1
BEGIN
    UPDATE pool_sizes SET sessions = sessions - 1 WHERE tenant = OLD.tenant;
END;

CREATE TRIGGER session_is_forgotten AFTER DELETE ON sessions WHEN OLD.in_pool = 1
BEGIN
    UPDATE pool_sizes SET sessions = sessions - 1 WHERE tenant = OLD.tenant;
END;

CREATE INDEX sessions_in_pool_by_name ON sessions (tenant, session_id) WHERE in_pool = 1;
CREATE INDEX sessions_in_pool_by_use ON sessions (used_observed_ms, tenant, session_id) WHERE in_pool = 1;
