-- Who has how many CPT, by double entry; amounts are millionths.

ALTER TABLE task ADD COLUMN only_account TEXT NOT NULL DEFAULT '';
ALTER TABLE task ADD COLUMN least_trust INTEGER NOT NULL DEFAULT 0;

CREATE TABLE movement (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    debit TEXT NOT NULL,
    credit TEXT NOT NULL,
    amount_ucpt INTEGER NOT NULL CHECK (amount_ucpt > 0),
    task_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    memo TEXT NOT NULL,
    key TEXT NOT NULL,
    CHECK (debit <> credit)
) STRICT;

-- An account's history comes from these two, merged.
CREATE INDEX movement_debit ON movement (debit, seq);
CREATE INDEX movement_credit ON movement (credit, seq);
CREATE UNIQUE INDEX movement_key ON movement (debit, key) WHERE key <> '';

CREATE TRIGGER movement_is_never_changed BEFORE UPDATE ON movement
BEGIN SELECT RAISE(ABORT, 'an entry of the ledger is never changed'); END;
CREATE TRIGGER movement_is_never_removed BEFORE DELETE ON movement
BEGIN SELECT RAISE(ABORT, 'an entry of the ledger is never removed'); END;

-- What the movements come to; written with them.
CREATE TABLE balance (
    account TEXT PRIMARY KEY,
    ucpt INTEGER NOT NULL,
    CHECK (ucpt >= 0 OR account = 'issuer')
) STRICT, WITHOUT ROWID;

-- What is held for the tasks that have not ended, and what of it was earned so far.
CREATE TABLE escrow (
    task_id TEXT PRIMARY KEY REFERENCES task (id),
    account TEXT NOT NULL,
    held_ucpt INTEGER NOT NULL CHECK (held_ucpt > 0),
    rate_ucpt INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE due (
    task_id TEXT NOT NULL REFERENCES escrow (task_id) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    account TEXT NOT NULL,
    amount_ucpt INTEGER NOT NULL CHECK (amount_ucpt > 0),
    PRIMARY KEY (task_id, place)
) STRICT, WITHOUT ROWID;
