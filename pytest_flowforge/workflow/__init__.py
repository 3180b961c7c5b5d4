"""Workflows in code: the engine, its executors, checkpoints and numbers without a test session."""
