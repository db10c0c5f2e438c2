-- Nodes that are to be given nothing more, until they are resumed.

ALTER TABLE node ADD COLUMN is_drained INTEGER NOT NULL DEFAULT 0 CHECK (is_drained IN (0, 1));
