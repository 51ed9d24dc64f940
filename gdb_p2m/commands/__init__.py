"""Step 7 of the data flow: the verbs, one file each. They return Reports and print nothing."""
