"""Runs a Python function for the watchdog."""
