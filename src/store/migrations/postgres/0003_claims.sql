-- Sessions that a node serves before their first commit, which makes the row in `sessions` and removes the one here. Nobody
-- sees them in lists, and none counts. What a dead node has here is free, as it is there.
CREATE TABLE claims (
    tenant TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    owner_name TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    PRIMARY KEY (tenant, session_id)
) WITH (fillfactor = 50);
