"""AWS's own machine-readable model of its services, and its signature: what a request is held to."""
import datetime
import pathlib
import re
import sys

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.model
import botocore.session

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import stand_in  # noqa: E402

# Seconds by which a request's date may differ from the service's clock.
SKEW = 300
AUTHORIZATION = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?"
                           r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})")


class Refused(stand_in.Refused):
    def __init__(self, code, message, status=400):
        super().__init__(status, {"__type": code, "message": message})


class Service:
    """A service by its model: `sagemaker`, `logs`."""

    def __init__(self, name):
        loader = botocore.session.get_session().get_component("data_loader")
        self.model = botocore.model.ServiceModel(loader.load_service_model(name, "service-2"))
        self.name = name

    def check(self, operation, body):
        """Every rule that the model has for the body: members, types, enums, patterns, lengths, ranges."""
        errors = []
        check(self.model.operation_model(operation).input_shape, body, operation[0].lower() + operation[1:], errors)
        if errors:
            raise Refused("ValidationException", f"{len(errors)} validation error(s) detected: " + "; ".join(errors))


def check(shape, value, path, errors):
    rules, kind = shape.metadata, shape.type_name

    def bad(rule):
        errors.append(f"Value '{str(value)[:60]}' at '{path}' failed to satisfy constraint: {rule}")

    if kind == "structure":
        if not isinstance(value, dict):
            return bad("Member must be an object")
        errors += [f"Value null at '{path}.{name}' failed to satisfy constraint: Member must not be null"
                   for name in shape.required_members if name not in value]
        for name, member in value.items():
            if name not in shape.members:
                errors.append(f"Unknown member '{path}.{name}'")
            else:
                check(shape.members[name], member, f"{path}.{name[0].lower()}{name[1:]}", errors)
    elif kind == "list":
        if not isinstance(value, list):
            return bad("Member must be a list")
        in_range(rules, len(value), bad)
        for index, member in enumerate(value, 1):
            check(shape.member, member, f"{path}.{index}", errors)
    elif kind == "map":
        if not isinstance(value, dict):
            return bad("Member must be a map")
        in_range(rules, len(value), bad)
        for key, member in value.items():
            check(shape.key, key, f"{path}.key", errors)
            check(shape.value, member, f"{path}.{key}", errors)
    elif kind == "string":
        if not isinstance(value, str):
            return bad("Member must be a string")
        if shape.enum and value not in shape.enum:
            bad("Member must satisfy enum value set")
        if "pattern" in rules and not re.fullmatch(as_python(rules["pattern"]), value):
            bad("Member must satisfy regular expression pattern: " + rules["pattern"])
        in_range(rules, len(value), bad)
    elif kind in ("integer", "long", "float", "double"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return bad("Member must be a number")
        in_range(rules, value, bad)
    elif kind == "boolean" and not isinstance(value, bool):
        bad("Member must be a boolean")


def in_range(rules, size, bad):
    if size < rules.get("min", size):
        bad(f"Member must have a value or length of at least {rules['min']}")
    if size > rules.get("max", size):
        bad(f"Member must have a value or length of at most {rules['max']}")


def as_python(pattern):
    for java, python in ((r"\p{L}", r"\w"), (r"\p{Z}", r"\s"), (r"\p{N}", r"\d")):
        pattern = pattern.replace(java, python)
    return pattern


def verify(headers, body, path, service, keys, now):
    """Whether the request is signed with one of `keys`, for `service`, by a clock like ours; the name of the key."""
    if not (authorization := headers.get("Authorization")):
        raise Refused("MissingAuthenticationTokenException", "Missing Authentication Token", 403)
    if not (match := AUTHORIZATION.fullmatch(authorization)):
        raise Refused("IncompleteSignatureException", "Authorization header is not of the form that it should be", 403)
    key, day, region, scope, signed, signature = match.groups()
    if key not in keys:
        raise Refused("UnrecognizedClientException", "The security token included in the request is invalid.", 403)
    if scope != service:
        raise Refused("InvalidSignatureException",
                      f"Credential should be scoped to correct service: '{service}'.", 403)
    date = headers.get("X-Amz-Date", "")
    at = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    if at < now - datetime.timedelta(seconds=SKEW):
        raise Refused("InvalidSignatureException", f"Signature expired: {date} is now earlier than {now:%Y%m%dT%H%M%SZ}", 403)
    if at > now + datetime.timedelta(seconds=SKEW):
        raise Refused("InvalidSignatureException",
                      f"Signature not yet current: {date} is still later than {now:%Y%m%dT%H%M%SZ}", 403)
    names = signed.split(";")
    if not {"host", "x-amz-date", "x-amz-target"} <= set(names) or day != date[:8]:
        raise Refused("InvalidSignatureException", "host, x-amz-date and x-amz-target must be signed", 403)
    request = botocore.awsrequest.AWSRequest(
        "POST", f"http://{headers['Host']}{path}", data=body, headers={name: headers[name] for name in names})
    request.context["timestamp"] = date
    signer = botocore.auth.SigV4Auth(botocore.credentials.Credentials(key, keys[key]), service, region)
    if signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request) != signature:
        raise Refused("InvalidSignatureException",
                      "The request signature we calculated does not match the signature you provided.", 403)
    return key
