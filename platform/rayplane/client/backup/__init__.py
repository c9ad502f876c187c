"""Backup and restore of a platform: its databases, its secrets, and the list of its storage root or all of it.

What refers is taken before what it refers to, so that nothing in a backup names what is not there, although the
platform runs on while it is made:

1. DBOS' workflows name jobs and runs of the store. Taken first: a workflow that is behind the store does a step again,
   and done again it finds the job of the same name. One that is ahead would wait for a job that is not there.
2. The store names MLflow runs, secrets, datasets and logs. All its tables are of one instant.
3. Secrets: a team's is made before the store or MLflow knows of it.
4. MLflow and Feast: what the store says was done is in them. They may know more: a run, a view that the store does not
   know of yet; the work that made it is under way in the store, is done again, and finds it.
5. The storage root last: its files do not change but for logs that grow, and are removed only by a deletion. Those of a
   deletion under way are then missing, which the check says.
"""
