"""GDB's front end: the same verbs as in the shell, on live memory or on a dump.

Only connection.py, cpus.py, settings.py, functions.py, commands.py and startup.py import gdb; the rest runs anywhere, so
that it can be tested without GDB.
"""
