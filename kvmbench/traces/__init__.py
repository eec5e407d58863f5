"""Recorded exits of a real host: read from traces, counted, replayed, turned into a scenario."""
