"""Results compared row by row, with verdicts that hold for the whole table."""
