"""Backup and restore of a platform: its databases, its secrets, and the list of its storage root or all of it.

The platform goes on running while a backup is made. Each part is copied before the parts that it refers to, so that
every reference in the backup leads to something that the backup has, too:

1. DBOS' workflows, which name jobs and runs of the store. A workflow that is older than the store repeats a step, and
   the repeated step finds the job of the same name. A workflow newer than the store would wait for a missing job.
2. The store, which names MLflow runs, secrets, datasets and logs. All its tables are of one instant.
3. Secrets: a team's secret is written before the store or MLflow refers to it. The password of MLflow's admin alone is
   copied together with MLflow's users, since a rotation changes both.
4. MLflow and Feast. All work that the store calls done is in them. They may also have a run or a view that the store
   does not know yet: the work that made it is still under way in the store, is repeated, and finds it.
5. The storage root. Its files never change, except for logs, which grow, and only a deletion removes them. Files that a
   deletion removes while the backup is made are missing from it, which the restore's check reports.
"""
