"""Step 5 of the data flow: the ways to see one P2M, each a Mapping that can trace one frame."""
