#!/usr/bin/env python3
"""SageMaker as far as it can be had without AWS. See README.md.

    check.py TUNESMITH FOLDER      within the namespace that check.sh makes
"""
import json
import os
import pathlib
import subprocess
import sys
import urllib.request

import boto3

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from host import Host, asked, up, wait  # noqa: E402
from model import Service  # noqa: E402

S3, SAGEMAKER = "http://127.0.0.1:5050", "http://127.0.0.1:5051"
REGION = "eu-central-1"
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*", "Action": [
    "s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload"]}]}


def start_s3():
    """A bucket, and a key whose signatures are verified from now on."""
    process = subprocess.Popen([str(pathlib.Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", "5050"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    up(f"{S3}/moto-api/data.json")
    client = lambda name: boto3.client(name, region_name=REGION, endpoint_url=S3, aws_access_key_id="setup",
                                       aws_secret_access_key="setup")
    client("s3").create_bucket(Bucket="lora", CreateBucketConfiguration={"LocationConstraint": REGION})
    client("iam").create_user(UserName="host")
    key = client("iam").create_access_key(UserName="host")["AccessKey"]
    client("iam").put_user_policy(UserName="host", PolicyName="host", PolicyDocument=json.dumps(POLICY))
    urllib.request.urlopen(urllib.request.Request(f"{S3}/moto-api/reset-auth", data=b"0", method="POST",
                                                  headers={"Content-Type": "text/plain"}))
    return process, {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
                     "AWS_REGION": REGION, "AWS_ENDPOINT_URL": S3}


def fragment(instance_type="ml.m5.large", bucket="lora", more=""):
    return "\n".join([
        "[remote]", f'artefacts = "s3://{bucket}/jobs"', "", "[remote.sagemaker]",
        'role_arn = "arn:aws:iam::123456789012:role/training"', 'image = "localhost/tunesmith:1"',
        f'instance_type = "{instance_type}"', f'endpoint = "{SAGEMAKER}"', f'logs_endpoint = "{SAGEMAKER}"', more, ""])


def test(name, value=None):
    return asked(SAGEMAKER, name, value)


def idle():
    wait("an idle engine", lambda: not test("active"))


def cases(host, bucket):
    made = lambda: len(test("jobs"))
    ok = fragment()

    outcome = host.run("secret", ok, environment={"AWS_SECRET_ACCESS_KEY": "wrong"})
    host.refused("a wrong secret", outcome, "refuses the credentials: InvalidSignatureException: The request signature we calculated",
                 "AWS_SECRET_ACCESS_KEY")
    host.refused("an unknown key", host.run("key", ok, environment={"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}),
                 "UnrecognizedClientException: The security token included in the request is invalid")
    for name, skew in (("behind", 3600), ("ahead", -3600)):
        test("clock_s", skew)
        host.refused(f"a clock that is an hour {name}", host.run(name, ok), "this machine's clock is wrong")
    test("clock_s", 0)
    test("quota", True)
    host.refused("no quota", host.run("quota", ok), "can't run such a job: ResourceLimitExceeded: The account-level service limit "
                 "'ml.m5.large for training job usage' is 0 Instances")
    test("quota", False)
    host.refused("an unknown instance type", host.run("type", fragment("ml.bogus.large")), "can't run such a job: ValidationException",
                 "Value 'ml.bogus.large' at 'createTrainingJob.resourceConfig.instanceType'")
    host.refused("a bucket that isn't there", host.run("bucket", fragment(bucket="nowhere")), "NoSuchBucket",
                 "is that the right bucket")
    host.check("nothing of all that made a job", made() == 0, test("jobs"))

    test("throttle", 3)
    test("lose_create", True)
    code, report, told = host.run("throttled", ok)
    host.check("throttled, and the answer to the submission lost: done", code == 0, told)
    host.check("throttled, and the answer lost: one job", made() == 1, test("jobs"))
    model = list(test("jobs").values())[0]["model"]["S3ModelArtifacts"]
    host.check("the adapter was left for SageMaker's own hosting", model.endswith("/output/model.tar.gz"), model)

    test("fail_next", "InternalServerError: We encountered an internal error. Please try again.")
    code, report, told = host.run("internal", ok)
    host.check("a failure of the service's own: another attempt does it", code == 0 and report["job"]["attempts"] == 2, told)
    test("fail_next", "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type.")
    before = made()
    host.refused("no capacity", host.run("capacity", ok), "can't be scheduled", "CapacityError: Unable to provision")
    host.check("no capacity: one attempt", made() == before + 1)

    test("damage_next", "adapter/adapter_model.safetensors")
    host.refused("a damaged adapter", host.run("damaged", ok), "is damaged: `adapter/adapter_model.safetensors` has SHA-256")

    test("hold", True)
    running = host.start("missing", ok)
    wait("a job", lambda: test("active"))
    name = test("active")[0].rsplit("-", 1)[0]
    for item in bucket.objects.filter(Prefix=f"jobs/{name}/bundle/"):
        item.delete()
    test("hold", False)
    _, told = running.communicate(timeout=180)
    host.refused("an input that isn't there any more", (running.returncode, None, told), "ClientError: Data download failed",
                 "matched no files")
    idle()

    running = host.start("stopped", ok)
    wait("a job that runs", lambda: training(bucket))
    test("stop")
    _, told = running.communicate(timeout=180)
    host.refused("stopped by somebody else", (running.returncode, None, told), "was cancelled")
    idle()

    running = host.start("expired", ok, epochs=15)
    wait("a job that runs", lambda: training(bucket))
    test("expired", True)
    _, told = running.communicate(timeout=180)
    host.refused("a token that expires in the middle", (running.returncode, None, told),
                 "refuses the credentials: ExpiredTokenException: The security token included in the request is expired")
    test("expired", False)
    before = made()
    code, report, told = host.run("expired", ok, epochs=15)
    host.check("with a new token the job is taken up again", code == 0 and report["job"]["attempts"] == 1, told)
    host.check("with a new token: no second job", made() == before)
    idle()


def training(bucket):
    """Whether the job that is active has told of a step."""
    for name in test("active"):
        beat = [item for item in bucket.objects.filter(Prefix=f"jobs/{name.rsplit('-', 1)[0]}/out/heartbeat.json")]
        if beat and json.loads(beat[0].get()["Body"].read())["step"] > 0:
            return True
    return False


def main():
    binary, work = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    request = json.loads((HERE / "create_training_job.json").read_text())
    Service("sagemaker").check("CreateTrainingJob", request)
    print("ok    the request that ours is compared with is one by AWS's model", flush=True)
    s3, environment = start_s3()
    os.environ.update(environment)
    contract = subprocess.Popen([sys.executable, str(HERE / "contract.py"), "5051", S3, str(work / "jobs"),
                                 "localhost/tunesmith:1"])
    try:
        up(SAGEMAKER)
        host = Host(binary, work, "sagemaker", environment)
        bucket = boto3.resource("s3", region_name=REGION, endpoint_url=S3).Bucket("lora")
        cases(host, bucket)
        (work / "remote.toml").write_text(fragment())
        hook = f"{sys.executable} {HERE.parent / 'host.py'} {SAGEMAKER}"
        subprocess.run([sys.executable, str(HERE.parent / "scenario.py"), binary, "--remote", str(work / "remote.toml"),
                        "--provider", "sagemaker", "--kill", f"{hook} kill", "--active", f"{hook} active"], check=True,
                       env={**os.environ, "RUST_LOG": "tunesmith=info"})  # it reads the log
        host.end()
    finally:
        for process in (contract, s3):
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
