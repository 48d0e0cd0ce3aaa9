"""The shapes of rows that hold preferences, one file each: how a row, or the rows of a prompt, become pairs."""
