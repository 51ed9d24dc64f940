"""Step 6 of the data flow: the rules that compare real memory with the documented layout."""
