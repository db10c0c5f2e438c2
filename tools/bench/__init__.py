"""Benchmarks. Every figure is a ratio within one run, because machines are shared and noisy."""
