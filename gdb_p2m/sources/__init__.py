"""Step 1 of the data flow: where bytes come from. Every source serves machine memory."""
