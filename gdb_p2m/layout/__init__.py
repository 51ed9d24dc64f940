"""Step 0: the documented facts as data, each with its source. No logic, no I/O."""
