"""What several test modules share: fixture paths, editable machines, the command line, small ELF files."""
