"""An S3 by moto, which verifies signatures, and a user who may do in its bucket `lora` what a job does there."""
import contextlib
import json
import pathlib
import subprocess
import sys
import urllib.request

import boto3

from cloud_check import serving

ADDRESS, REGION, BUCKET = "http://127.0.0.1:5050", "eu-central-1", "lora"
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*", "Action": [
    "s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload"]}]}


@contextlib.contextmanager
def a_bucket():
    """The bucket, and the user's environment."""
    moto = pathlib.Path(sys.executable).parent / "moto_server"
    port = ADDRESS.rsplit(":", 1)[1]
    with serving(f"{ADDRESS}/moto-api/data.json", moto, "-H", "127.0.0.1", "-p", port, stderr=subprocess.DEVNULL):
        key = a_user()
        environment = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
                       "AWS_REGION": REGION, "AWS_ENDPOINT_URL": ADDRESS}
        s3 = boto3.resource("s3", region_name=REGION, endpoint_url=ADDRESS, aws_access_key_id=key["AccessKeyId"],
                            aws_secret_access_key=key["SecretAccessKey"])
        yield s3.Bucket(BUCKET), environment


def a_user():
    """The user's key; from now on, signatures are verified."""
    client = lambda name: boto3.client(name, region_name=REGION, endpoint_url=ADDRESS, aws_access_key_id="setup",
                                       aws_secret_access_key="setup")
    client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    client("iam").create_user(UserName="host")
    key = client("iam").create_access_key(UserName="host")["AccessKey"]
    client("iam").put_user_policy(UserName="host", PolicyName="host", PolicyDocument=json.dumps(POLICY))
    urllib.request.urlopen(urllib.request.Request(f"{ADDRESS}/moto-api/reset-auth", data=b"0", method="POST",
                                                  headers={"Content-Type": "text/plain"}))
    return key
