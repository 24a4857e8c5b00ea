-- Sessions that are about to be in the pool, of tenants that may have only so many: room for each is taken here, with
-- the tenant's sessions counted under a lock, before it is made. A place whose session is in the pool does not count
-- beside it, nor does one of a node that is dead.
CREATE TABLE places (
    incarnation TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    tenant TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (incarnation, number)
);

CREATE INDEX places_by_tenant ON places (tenant, session_id);
