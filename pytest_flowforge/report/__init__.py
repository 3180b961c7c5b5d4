"""Rendering: from values to text, and nothing else. No pytest, no files."""
