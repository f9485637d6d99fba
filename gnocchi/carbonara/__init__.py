"""The numeric engine: many series in, many series out.  No I/O, configuration, clock or log here."""
