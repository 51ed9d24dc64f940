"""Step 8 of the data flow: Reports to text, JSON and the formats of other tools."""
