"""Prints the jobs of ours that the cluster has waiting or running, one a line."""
import json
import os
import pathlib
import urllib.request

token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
request = urllib.request.Request(f"{os.environ['RAY_URL']}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
for job in json.load(urllib.request.urlopen(request, timeout=60)):
    if job["status"] in ("PENDING", "RUNNING") and job["submission_id"] and not job["submission_id"].endswith("-stop"):
        print(job["submission_id"])
