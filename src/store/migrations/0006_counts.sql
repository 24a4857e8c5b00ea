-- What was counted by lives of services that are long over, one row for each name.
CREATE TABLE counts (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- US dollars that were spent on a day (days since 1970, UTC); day -1 is all days together. Of the others only the last
-- one is kept.
CREATE TABLE costs (
    tenant TEXT NOT NULL,
    day BIGINT NOT NULL,
    cost_usd DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (tenant, day)
);

-- What each life of a service has counted so far, as JSON; nobody else writes its row. The sum of these rows and of the
-- tables above is what was counted: what is told again, or late, is not added twice, and two services on one database
-- add up. `observed_ms` says when it last counted.
CREATE TABLE counted (
    tenant TEXT NOT NULL,
    writer TEXT NOT NULL,
    observed_ms BIGINT NOT NULL,
    totals TEXT NOT NULL,
    PRIMARY KEY (tenant, writer)
);

INSERT INTO counts (tenant, name, count)
SELECT totals.tenant, each.key, each.value
FROM totals, json_each(totals.counters, '$.counts') AS each
WHERE each.value > 0;

INSERT INTO counts (tenant, name, count)
SELECT totals.tenant, 'usage.' || each.key, each.value
FROM totals, json_each(totals.counters, '$.spent.usage') AS each
WHERE each.value > 0;

INSERT INTO costs (tenant, day, cost_usd)
SELECT tenant, -1, json_extract(counters, '$.spent.cost_usd') FROM totals
WHERE json_extract(counters, '$.spent.cost_usd') > 0;

INSERT INTO costs (tenant, day, cost_usd)
SELECT tenant, json_extract(counters, '$.today.day'), json_extract(counters, '$.today.cost_usd') FROM totals
WHERE json_extract(counters, '$.today.cost_usd') > 0;

DROP TABLE totals;
