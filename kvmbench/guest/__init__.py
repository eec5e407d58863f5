"""Guests of our own: assembler, memory image and the programs of the workloads."""
