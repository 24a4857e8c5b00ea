-- Until when services that had the name of a node before, and may not know yet that they have lost it, may have processes
-- for their sessions: the ends of their leases. Until then nobody claims what was theirs.
ALTER TABLE nodes ADD COLUMN earlier_until TIMESTAMPTZ NOT NULL DEFAULT '-infinity';
