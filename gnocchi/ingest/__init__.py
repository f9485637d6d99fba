"""Measures by protocols outside HTTP."""
