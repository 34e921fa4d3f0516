"""Folders of a machine and prefixes of S3, kept in step as SageMaker does."""
import pathlib


def parts(uri):
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix


class Bucket:
    def __init__(self, s3):
        self.s3 = s3

    def download(self, uri, folder):
        """Everything below the prefix; how many files that were."""
        bucket, prefix = parts(uri.rstrip("/") + "/")
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        count = 0
        for item in (item for page in pages for item in page.get("Contents", [])):
            path = pathlib.Path(folder) / item["Key"][len(prefix):]
            path.parent.mkdir(parents=True, exist_ok=True)
            self.s3.download_file(bucket, item["Key"], str(path))
            count += 1
        return count

    def upload_file(self, path, uri):
        bucket, key = parts(uri)
        self.s3.upload_file(str(path), bucket, key)

    def upload_changes(self, folder, uri, seen):
        """What has changed since `seen`, which is brought up to date. Nothing is ever removed there: SageMaker does not."""
        for path in sorted(pathlib.Path(folder).rglob("*")):
            try:
                if not path.is_file() or path.name.startswith("."):
                    continue
                stamp = path.stat().st_mtime_ns
                if seen.get(path) != stamp:
                    self.upload_file(path, f"{uri.rstrip('/')}/{path.relative_to(folder)}")
                    seen[path] = stamp
            except FileNotFoundError:
                continue  # renamed while it was looked at
