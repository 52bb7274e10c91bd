"""Delayed and recurring messages: cron expressions, the schedules of a host, and their delivery."""
