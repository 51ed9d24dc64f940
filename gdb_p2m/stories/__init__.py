"""What a frame is and why, in words for people who learn: texts, chosen by what the views found."""
