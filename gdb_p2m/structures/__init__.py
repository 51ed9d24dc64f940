"""Step 4 of the data flow: structures as typed records that keep their address."""
