import sys, ray
from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, SUPERVISOR_ACTOR_RAY_NAMESPACE
ray.init(address="auto", namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE, log_to_driver=False)
try:
    ray.kill(ray.get_actor(JOB_ACTOR_NAME_TEMPLATE.format(job_id=sys.argv[1])), no_restart=True)
    print("ended before it began")
except ValueError as error:
    print("it is gone:", error)
