"""The guest of a measurement: assembler, memory image and programs."""
