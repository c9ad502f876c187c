"""The team's Feast project: configured, applied, joined, materialized."""
