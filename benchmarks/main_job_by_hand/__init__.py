"""The main job by hand: what `benchmarks.main_job` compares the platform with. Nothing of rayplane is used here.

The work is that of jobs/flights.yaml, step by step and in one process: raw Ray Data, DuckDB, Feast, Ray Train, MLflow
and Ray Serve, with the team's own SQL, feature definitions and parameters. Every dataset is on disk in the end, as
the platform's are, but without versions, hashes and lineage; nothing is cached, checked again or taken up after a
failure.
"""
