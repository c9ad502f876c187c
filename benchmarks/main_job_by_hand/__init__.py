"""The main job as a hand-written script, with which `benchmarks.main_job` compares the platform. It uses no rayplane.

The work is that of jobs/flights.yaml, step by step and in one process: raw Ray Data, DuckDB, Feast, Ray Train, MLflow
and Ray Serve, with the team's own SQL, feature definitions and parameters. Every dataset is on disk in the end, as
the platform's are, but without versions, hashes and lineage; nothing is cached, verified or resumed after a failure.
"""
