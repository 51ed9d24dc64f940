"""Step 2 of the data flow: addresses. One radix walker, driven by the shapes in layout/."""
