-- Nodes that are pushed to, which tasks they may be given, and what they never showed.

ALTER TABLE node ADD COLUMN unconfirmed INTEGER NOT NULL DEFAULT 0;
-- Null for a node that dials the master.
ALTER TABLE node ADD COLUMN hostname TEXT;
ALTER TABLE node ADD COLUMN port INTEGER;
ALTER TABLE node ADD COLUMN cpu_cores INTEGER;
ALTER TABLE node ADD COLUMN memory_gb INTEGER;
ALTER TABLE node ADD COLUMN cpu_score INTEGER;
ALTER TABLE node ADD COLUMN gpu_score INTEGER;
ALTER TABLE node ADD COLUMN gpu_memory_gb INTEGER;
ALTER TABLE node ADD COLUMN gpu_name TEXT;
ALTER TABLE node ADD COLUMN location TEXT;
ALTER TABLE node ADD COLUMN docker_status TEXT;
ALTER TABLE node ADD COLUMN intent TEXT;

ALTER TABLE task ADD COLUMN pushable INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN unconfirmed INTEGER NOT NULL DEFAULT 0;

ALTER TABLE attempt ADD COLUMN raw_result INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN unconfirmed INTEGER NOT NULL DEFAULT 0;
