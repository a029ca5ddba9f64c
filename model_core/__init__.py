"""The thinking: functions from values to values. Nothing in here opens a file, a socket, a thread or the clock."""
