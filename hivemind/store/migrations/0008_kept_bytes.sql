-- How much of the disk each account's tasks take, ended ones included: what they were submitted
-- with, what they left, and a kilobyte of rows for each. Kept up with every row that comes or goes.

CREATE TABLE kept (
    account TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO kept (account, bytes)
SELECT account, SUM(bytes) FROM (
    SELECT account, 1024 + length(spec) + ifnull(payload_size, 0) + ifnull(stdin_size, 0) AS bytes
    FROM task_input JOIN task ON task.id = task_input.task_id
    UNION ALL
    SELECT account, size AS bytes FROM result JOIN task ON task.id = result.task_id
) GROUP BY account;

CREATE TRIGGER task_input_comes AFTER INSERT ON task_input
BEGIN
    INSERT INTO kept (account, bytes)
    SELECT
        account,
        1024 + length(NEW.spec) + ifnull(NEW.payload_size, 0) + ifnull(NEW.stdin_size, 0)
    FROM task WHERE id = NEW.task_id
    ON CONFLICT (account) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER task_input_goes AFTER DELETE ON task_input
BEGIN
    UPDATE kept SET bytes = bytes
        - (1024 + length(OLD.spec) + ifnull(OLD.payload_size, 0) + ifnull(OLD.stdin_size, 0))
    WHERE account = (SELECT account FROM task WHERE id = OLD.task_id);
END;

-- Its account has a row, since a task has its input before it has a result.
CREATE TRIGGER result_comes AFTER INSERT ON result
BEGIN
    UPDATE kept SET bytes = bytes + NEW.size
    WHERE account = (SELECT account FROM task WHERE id = NEW.task_id);
END;
CREATE TRIGGER result_changes AFTER UPDATE OF size ON result
BEGIN
    UPDATE kept SET bytes = bytes + NEW.size - OLD.size
    WHERE account = (SELECT account FROM task WHERE id = NEW.task_id);
END;
CREATE TRIGGER result_goes AFTER DELETE ON result
BEGIN
    UPDATE kept SET bytes = bytes - OLD.size
    WHERE account = (SELECT account FROM task WHERE id = OLD.task_id);
END;
