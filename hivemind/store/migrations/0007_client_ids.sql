-- Tasks by what their clients call them, whosever they are.

CREATE INDEX task_called ON task (client_id) WHERE client_id <> '';
