-- What the database itself notes for the recorder: each claim, each release, each append to a transcript and each
-- turn that is kept, in the transaction that does it, with the incarnation that the transaction is of. In which
-- order they took effect is said by the times of their commits, to the microsecond: who holds a row's lock has another time than who
-- waited for it.

CREATE TABLE chaos_log (
    id BIGSERIAL PRIMARY KEY,
    kind TEXT NOT NULL,
    session_id TEXT NOT NULL,
    cli_session_id TEXT NOT NULL,
    -- Who writes; of a turn its name.
    writer TEXT NOT NULL,
    -- Whose the session is from then on; of a turn a print of its result.
    owner TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    entries BIGINT NOT NULL
);

-- The first statement of each order writes to the row of its slot.
CREATE FUNCTION chaos_note_writer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('chaos.writer', NEW.incarnation, TRUE);
    RETURN NEW;
END;
$$;
CREATE TRIGGER chaos_writer BEFORE UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION chaos_note_writer();

CREATE FUNCTION chaos_note_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_log (kind, session_id, cli_session_id, writer, owner, epoch, entries)
    VALUES (CASE NEW.owner WHEN '' THEN 'release' ELSE 'claim' END, NEW.session_id, NEW.cli_session_id,
        COALESCE(current_setting('chaos.writer', TRUE), ''), NEW.owner, NEW.epoch, 0);
    RETURN NULL;
END;
$$;
CREATE TRIGGER chaos_made AFTER INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION chaos_note_owner();
CREATE TRIGGER chaos_claimed AFTER UPDATE ON sessions FOR EACH ROW
    WHEN (OLD.owner <> NEW.owner OR OLD.epoch <> NEW.epoch) EXECUTE FUNCTION chaos_note_owner();

CREATE FUNCTION chaos_note_append() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_log (kind, session_id, cli_session_id, writer, owner, epoch, entries)
    SELECT 'append', c.session_id, a.cli_session_id, COALESCE(current_setting('chaos.writer', TRUE), ''), '', 0, count(*)
    FROM added a JOIN conversations c ON c.tenant = a.tenant AND c.cli_session_id = a.cli_session_id
    GROUP BY c.session_id, a.cli_session_id;
    RETURN NULL;
END;
$$;
CREATE TRIGGER chaos_appended AFTER INSERT ON entries REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION chaos_note_append();

-- A result that is taken away for others' sake is none.
CREATE FUNCTION chaos_note_turn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_log (kind, session_id, cli_session_id, writer, owner, epoch, entries)
    VALUES ('turn', NEW.session_id, NEW.cli_session_id, NEW.turn_id, md5(NEW.result), 0, 0);
    RETURN NULL;
END;
$$;
CREATE TRIGGER chaos_kept AFTER INSERT OR UPDATE ON turns FOR EACH ROW
    WHEN (NEW.result <> '') EXECUTE FUNCTION chaos_note_turn();
