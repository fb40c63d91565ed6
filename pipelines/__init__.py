"""Beam jobs: thin graphs around `lit_precompute`."""

import logging

# Beam warns on import, through the root logger, that BigQuery's libraries are missing. Nothing here uses them.
logging.getLogger().addFilter(lambda record: "bigquery client libraries" not in record.getMessage())
