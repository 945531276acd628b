"""Delivers webhooks: events of executions, sent to the address that a start named."""
