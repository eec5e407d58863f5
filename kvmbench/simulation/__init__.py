"""Workloads under two policies, simulated in exact cycles."""
