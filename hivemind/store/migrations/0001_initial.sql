-- Tasks, what they were submitted with, and what became of them; who may do what.
-- Instants are seconds since the epoch. A blob is a size and either bytes or a file's name.

CREATE TABLE task (
    -- The order of submission, which listings follow.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN (
        'submitted', 'queued', 'assigned', 'running', 'succeeded', 'failed', 'stopped', 'timed_out'
    )),
    client_id TEXT NOT NULL,
    client_key TEXT NOT NULL,
    name TEXT NOT NULL,
    policy TEXT NOT NULL,
    priority INTEGER NOT NULL,
    cpu_millis INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    scratch_bytes INTEGER NOT NULL,
    gpus INTEGER NOT NULL,
    gpu_memory_bytes INTEGER NOT NULL,
    gpu_name TEXT NOT NULL,
    location TEXT NOT NULL,
    wall_s REAL NOT NULL,
    attempt INTEGER NOT NULL,
    stop_requested INTEGER NOT NULL CHECK (stop_requested IN (0, 1)),
    stopped_by TEXT NOT NULL,
    retries INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    backoff_s REAL NOT NULL,
    node_id TEXT NOT NULL,
    reason TEXT,
    detail TEXT NOT NULL,
    exit_code INTEGER,
    submitted_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL
) STRICT;

-- What a client chose is unique within its account; the empty string stands for nothing chosen.
CREATE UNIQUE INDEX task_client_id ON task (account, client_id) WHERE client_id <> '';
CREATE UNIQUE INDEX task_client_key ON task (account, client_key) WHERE client_key <> '';

-- A listing takes the newest of each state it asks for from one of these two, and merges them.
CREATE INDEX task_account_state ON task (account, state, seq);
CREATE INDEX task_state ON task (state, seq);

-- Apart from the task, whose row is rewritten with every change of its state.
CREATE TABLE task_input (
    task_id TEXT PRIMARY KEY REFERENCES task (id),
    spec BLOB NOT NULL,
    payload_size INTEGER,
    payload_inline BLOB,
    payload_file TEXT,
    stdin_size INTEGER,
    stdin_inline BLOB,
    stdin_file TEXT,
    CHECK ((payload_size IS NOT NULL) = ((payload_inline IS NULL) <> (payload_file IS NULL))),
    CHECK ((stdin_size IS NOT NULL) = ((stdin_inline IS NULL) <> (stdin_file IS NULL)))
) STRICT;

CREATE INDEX task_input_payload_file ON task_input (payload_file) WHERE payload_file IS NOT NULL;
CREATE INDEX task_input_stdin_file ON task_input (stdin_file) WHERE stdin_file IS NOT NULL;

CREATE TABLE attempt (
    task_id TEXT NOT NULL REFERENCES task (id),
    number INTEGER NOT NULL CHECK (number > 0),
    node_id TEXT NOT NULL,
    lease_id TEXT NOT NULL,
    assigned_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    outcome TEXT,
    reason TEXT,
    detail TEXT NOT NULL,
    exit_code INTEGER,
    used_wall_s REAL NOT NULL,
    used_cpu_s REAL NOT NULL,
    used_memory_peak_bytes INTEGER NOT NULL,
    report_seq INTEGER NOT NULL,
    refusal TEXT,
    result_bytes INTEGER NOT NULL,
    PRIMARY KEY (task_id, number)
) STRICT, WITHOUT ROWID;

-- A row with a blob of up to 64 KiB is better kept in a table with rowids.
CREATE TABLE result (
    task_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    size INTEGER NOT NULL,
    inline BLOB,
    file TEXT,
    PRIMARY KEY (task_id, attempt),
    FOREIGN KEY (task_id, attempt) REFERENCES attempt (task_id, number),
    CHECK ((inline IS NULL) <> (file IS NULL))
) STRICT;

CREATE INDEX result_file ON result (file) WHERE file IS NOT NULL;

CREATE TABLE account (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    created_at REAL NOT NULL,
    email TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE node (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    name TEXT NOT NULL,
    public_key BLOB NOT NULL,
    enrolled_at REAL NOT NULL,
    last_seen_at REAL NOT NULL,
    trust INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_token (
    digest BLOB PRIMARY KEY,
    account TEXT NOT NULL,
    purpose TEXT NOT NULL,
    expires_at REAL NOT NULL,
    used_at REAL
) STRICT, WITHOUT ROWID;

CREATE TABLE revoked_token (
    token_id TEXT PRIMARY KEY,
    expires_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE fact (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
