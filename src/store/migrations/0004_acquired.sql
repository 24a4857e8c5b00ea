-- What a session has come to beyond its options, as JSON: the permission mode and the model that its CLI reports, and
-- the rules and folders that callers granted in answers to prompts. Of sessions from before nothing is known.
ALTER TABLE sessions ADD COLUMN acquired TEXT NOT NULL DEFAULT '{}';
