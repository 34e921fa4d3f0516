#!/usr/bin/env python3
"""SageMaker as far as it can be had without AWS. See README.md.

    check.py TUNESMITH FOLDER      within the namespace that check.sh makes
"""
import json
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import s3  # noqa: E402
from cloud_check import CloudCheck, serving  # noqa: E402
from model import Service  # noqa: E402
from scenario import run  # noqa: E402

SAGEMAKER = "http://127.0.0.1:5051"


def fragment(instance_type="ml.m5.large", bucket="lora"):
    return "\n".join([
        "[remote]", f'artefacts = "s3://{bucket}/jobs"', "", "[remote.sagemaker]",
        'role_arn = "arn:aws:iam::123456789012:role/training"', 'image = "localhost/tunesmith:1"',
        f'instance_type = "{instance_type}"', f'endpoint = "{SAGEMAKER}"', f'logs_endpoint = "{SAGEMAKER}"', ""])


def cases(check):
    check.refused("a wrong secret", check.train("secret", environment={"AWS_SECRET_ACCESS_KEY": "wrong"}), "AWS_SECRET_ACCESS_KEY",
                  "refuses the credentials: InvalidSignatureException: The request signature we calculated")
    check.refused("an unknown key", check.train("key", environment={"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}),
                  "UnrecognizedClientException: The security token included in the request is invalid")
    for name, skew in (("behind", 3600), ("ahead", -3600)):
        check.ask("clock_s", skew)
        check.refused(f"a clock that is an hour {name}", check.train(name), "this machine's clock is wrong")
    check.ask("clock_s", 0)
    check.no_quota("can't run such a job: ResourceLimitExceeded: The account-level service limit "
                   "'ml.m5.large for training job usage' is 0 Instances")
    check.refused("an unknown instance type", check.train("type", fragment=fragment("ml.bogus.large")),
                  "can't run such a job: ValidationException",
                  "Value 'ml.bogus.large' at 'createTrainingJob.resourceConfig.instanceType'")
    check.refused("a bucket that isn't there", check.train("bucket", fragment=fragment(bucket="nowhere")), "NoSuchBucket",
                  "is that the right bucket")
    check.check("nothing of all that made a job", check.made() == 0, check.ask("jobs"))

    check.lost_answer(throttle=3)
    model = list(check.ask("jobs").values())[0]["model"]["S3ModelArtifacts"]
    check.check("the adapter was left for SageMaker's own hosting", model.endswith("/output/model.tar.gz"), model)

    check.failing("a failure of the service's own", "InternalServerError: We encountered an internal error. Please try again.")
    check.no_capacity("CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type.",
                      "CapacityError: Unable to provision")
    check.meddled_with("ClientError: Data download failed", "matched no files")
    check.locked_out("a token that expires in the middle", "expired", "refuses the credentials: ExpiredTokenException: "
                     "The security token included in the request is expired", "with a new token")


def main():
    binary, work = sys.argv[1], pathlib.Path(sys.argv[2])
    request = json.loads((HERE / "create_training_job.json").read_text())
    Service("sagemaker").check("CreateTrainingJob", request)
    print("ok    the request that ours is compared with is one by AWS's model", flush=True)
    with s3.a_bucket() as (bucket, environment):
        os.environ.update(environment)

        def read(path):
            found = list(bucket.objects.filter(Prefix=path))
            return found[0].get()["Body"].read() if found else None

        def remove(prefix):
            for item in bucket.objects.filter(Prefix=prefix):
                item.delete()

        with serving(SAGEMAKER, sys.executable, HERE / "contract.py", "5051", s3.ADDRESS, work / "jobs", "localhost/tunesmith:1"):
            run(lambda: CloudCheck(binary, "sagemaker", fragment(), SAGEMAKER, "jobs", read, remove), cases, CloudCheck.play)


if __name__ == "__main__":
    main()
