-- With all columns that are asked for in it. SQLite took the primary key's index in its place before, which has them all
-- but begins with the tenant and the session: each commit went through all conversations of its tenant.
DROP INDEX conversations_by_id;
CREATE INDEX conversations_by_id ON conversations (tenant, cli_session_id, session_id);
