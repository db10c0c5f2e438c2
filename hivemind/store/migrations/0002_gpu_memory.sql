-- What an attempt used of its GPUs' memory.

ALTER TABLE attempt ADD COLUMN used_gpu_memory_peak_bytes INTEGER NOT NULL DEFAULT 0;
