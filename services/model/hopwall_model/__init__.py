"""The shared language of the services: resources, events, updates, statuses, names and topics.

Pure: nothing here does I/O, reads a clock or logs. Read `resources`, `events` and `updates` first.
"""
