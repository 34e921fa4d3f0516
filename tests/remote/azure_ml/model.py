"""Microsoft's own client's models: what the body of a job is held to."""
import re
import typing

from azure.ai.ml._restclient.arm_ml_service import models

DURATION = re.compile(r"P(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?")
SUBSTITUTION = re.compile(r"\$\{\{(\w+)\.(\w+)\}\}")


def names(model):
    """Those that the client would send for the model's fields."""
    model.__new__(model)  # the fields are gathered when the first one is made
    return {field._rest_name for field in model._attr_to_rest_field.values()}


def held(model, value, path, errors, required=()):
    if not isinstance(value, dict):
        return errors.append(f"{path} must be an object")
    known = names(model)
    errors += [f"Could not find member '{name}' on object of type '{model.__name__}' at {path}"
               for name in value if name not in known]
    errors += [f"The {name} field is required at {path}" for name in required if not value.get(name)]


def one_of(choices, value, path, errors):
    if value not in [choice.value for choice in choices]:
        errors.append(f"'{value}' is none of {[choice.value for choice in choices]} at {path}")


def errors_of(body):
    errors: typing.List[str] = []
    job = body.get("properties")
    if set(body) != {"properties"} or not isinstance(job, dict):
        return ["The properties field is required, and no other"]
    if job.get("jobType") != "Command":
        return [f"Unsupported jobType '{job.get('jobType')}'"]
    held(models.CommandJob, job, "properties", errors, ("command", "environmentId"))
    if limits := job.get("limits"):
        held(models.CommandJobLimits, limits, "properties.limits", errors, ("jobLimitsType",))
        if not DURATION.fullmatch(limits.get("timeout", "")):
            errors.append(f"'{limits.get('timeout')}' is not an ISO 8601 duration at properties.limits.timeout")
    if resources := job.get("resources"):
        held(models.JobResourceConfiguration, resources, "properties.resources", errors)
        if not isinstance(resources.get("instanceCount", 1), int):
            errors.append("instanceCount must be a number at properties.resources")
    if distribution := job.get("distribution"):
        held(models.PyTorch, distribution, "properties.distribution", errors, ("distributionType",))
    if queue := job.get("queueSettings"):
        held(models.QueueSettings, queue, "properties.queueSettings", errors)
        one_of(models.JobTier, queue.get("jobTier"), "properties.queueSettings.jobTier", errors)
    for name, value in (job.get("inputs") or {}).items():
        path = f"properties.inputs.{name}"
        held(models.UriFolderJobInput, value, path, errors, ("uri", "jobInputType"))
        one_of(models.InputDeliveryMode, value.get("mode"), path, errors)
    for name, value in (job.get("outputs") or {}).items():
        path = f"properties.outputs.{name}"
        held(models.UriFolderJobOutput, value, path, errors, ("jobOutputType",))
        one_of(models.OutputDeliveryMode, value.get("mode"), path, errors)
    for key, value in (job.get("tags") or {}).items():
        if not isinstance(value, str) or len(key) > 512 or len(value) > 256:
            errors.append(f"tag '{key}' must be a text of at most 256 characters")
    for folder, name in SUBSTITUTION.findall(job.get("command", "")):
        if name not in (job.get(folder) or {}):
            errors.append(f"command names undefined {folder}.{name}")
    return errors
