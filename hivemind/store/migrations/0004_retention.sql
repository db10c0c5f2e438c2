-- Ended tasks in the order in which their time of keeping is over.

CREATE INDEX task_finished ON task (finished_at) WHERE finished_at IS NOT NULL;
