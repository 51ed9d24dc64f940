"""Machine code in memory: instructions of a function, and the static addresses that they refer to."""
