"""What a drawing of a P2M shows, before anybody draws it: boxes, their slots, and what was folded."""
