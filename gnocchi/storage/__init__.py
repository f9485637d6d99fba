"""Stored aggregates: drivers know bytes and keys; head, block and store know what the bytes mean."""
