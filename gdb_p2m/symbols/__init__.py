"""Step 3 of the data flow: names and types of the software in the memory, each with its source."""
