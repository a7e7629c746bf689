"""Properties of template.yaml that code, documents and security depend on."""

import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from local import streams
from local.in_process import LOCAL_VALUES
from local.template import Template
from uploads import limits
from uploads.config import AuthMode, Config
from uploads.session import State

ROOT: Final = Path(__file__).parents[2]
TEMPLATE: Final = ROOT / "template.yaml"
DAY: Final = 86_400

Node = dict[str, Any]


class Loader(yaml.SafeLoader):
    """YAML where ``!Ref Api`` becomes ``{"Ref": "Api"}``, ``!GetAtt Api.Arn`` ``{"GetAtt": …}``."""


def intrinsic(loader: Loader, name: str, node: yaml.Node) -> Node:
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.ScalarNode)
    return {name: loader.construct_scalar(node)}


Loader.add_multi_constructor("!", intrinsic)

STACK: Final[Node] = yaml.load(TEMPLATE.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a SafeLoader
PARAMETERS: Final[Node] = STACK["Parameters"]
RESOURCES: Final[Node] = STACK["Resources"]


def of_type(kind: str) -> Node:
    """The properties of all resources of a type, by logical id."""
    found = {
        name: resource["Properties"]
        for name, resource in RESOURCES.items()
        if resource["Type"] == kind
    }
    assert found
    return found


BUCKETS: Final = of_type("AWS::S3::Bucket")
FUNCTIONS: Final = of_type("AWS::Serverless::Function")
ROLES: Final = of_type("AWS::IAM::Role")
ALARMS: Final = of_type("AWS::CloudWatch::Alarm")
(STATE_MACHINE,) = of_type("AWS::Serverless::StateMachine").values()
(TABLE,) = of_type("AWS::DynamoDB::Table").values()
(API,) = of_type("AWS::ApiGatewayV2::Api").values()
(STAGE,) = of_type("AWS::ApiGatewayV2::Stage").values()


BEHIND_THE_API: Final = {
    integration["IntegrationUri"]["GetAtt"].removesuffix(".Arn")
    for integration in of_type("AWS::ApiGatewayV2::Integration").values()
}
MAPPINGS: Final = {
    mapping["FunctionName"]["Ref"].removesuffix("Function"): mapping
    for mapping in of_type("AWS::Lambda::EventSourceMapping").values()
}
"""The event source mappings of the table's stream, by function."""
CLEANUP: Final = MAPPINGS["Cleanup"]
TASKS: Final = FUNCTIONS.keys() - BEHIND_THE_API - {f"{name}Function" for name in MAPPINGS}
"""The functions of a long merge."""


def listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def allowed(role: str) -> Iterator[tuple[str, Any]]:
    """Every (action, resource) that a role allows."""
    for policy in ROLES[role]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Allow"
            for action in listed(statement["Action"]):
                for resource in listed(statement["Resource"]):
                    yield action, resource


def denials(bucket: str) -> dict[str, Node]:
    """The denials in a bucket's policy, by Sid."""
    (policy,) = (
        properties["PolicyDocument"]
        for properties in of_type("AWS::S3::BucketPolicy").values()
        if properties["Bucket"] == {"Ref": bucket}
    )
    for statement in policy["Statement"]:
        assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    return {statement["Sid"]: statement for statement in policy["Statement"]}


# --- Storage ---


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_bucket_is_private_and_encrypted(bucket: str) -> None:
    properties = BUCKETS[bucket]
    assert properties["PublicAccessBlockConfiguration"] == {
        "BlockPublicAcls": True,
        "BlockPublicPolicy": True,
        "IgnorePublicAcls": True,
        "RestrictPublicBuckets": True,
    }
    assert properties["OwnershipControls"] == {
        "Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]
    }
    assert "BucketEncryption" in properties


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_bucket_refuses_plain_http(bucket: str) -> None:
    denial = denials(bucket)["TlsOnly"]
    assert denial["Action"] == "s3:*"
    assert denial["Resource"] == [{"GetAtt": f"{bucket}.Arn"}, {"Sub": f"${{{bucket}.Arn}}/*"}]
    assert denial["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize("bucket", BUCKETS)
def test_nothing_in_a_bucket_is_ever_overwritten(bucket: str) -> None:
    denial = denials(bucket)["NeverOverwrite"]
    assert denial["Action"] == "s3:PutObject"
    assert denial["Resource"] == {"Sub": f"${{{bucket}.Arn}}/*"}
    # UploadPart has no condition; it creates no object.
    assert denial["Condition"] == {
        "Null": {"s3:if-none-match": "true"},
        "Bool": {"s3:ObjectCreationOperation": "true"},
    }


def lifecycle(bucket: str) -> dict[str, Node]:
    rules = BUCKETS[bucket]["LifecycleConfiguration"]["Rules"]
    assert all(rule["Status"] == "Enabled" for rule in rules)
    return {rule["Id"]: rule for rule in rules}


def test_batches_outlive_the_latest_finish() -> None:
    kept = lifecycle("BatchesBucket")["ExpireBatches"]["ExpirationInDays"] * DAY
    assert kept >= limits.LATEST_FINISH_SECONDS + 2 * DAY


def test_merged_objects_are_kept_as_long_as_asked() -> None:
    rule = lifecycle("MergedBucket")["ExpireMergedObjects"]
    assert rule["ExpirationInDays"] == {"Ref": "MergedRetentionDays"}


@pytest.mark.parametrize("bucket", BUCKETS)
def test_stale_uploads_go(bucket: str) -> None:
    rule = lifecycle(bucket)["AbortStaleUploads"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert definition()["TimeoutSeconds"] < DAY, "a long merge must end before its upload expires"


def test_only_merged_objects_are_announced() -> None:
    announced = {name for name in BUCKETS if "NotificationConfiguration" in BUCKETS[name]}
    assert announced == {"MergedBucket"}


def test_the_table_forgets_and_can_be_restored() -> None:
    assert TABLE["TimeToLiveSpecification"] == {"AttributeName": "expiresAt", "Enabled": True}
    assert TABLE["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert TABLE["SSESpecification"] == {"SSEEnabled": True}


@pytest.mark.parametrize("name", ["SessionsTable", "BatchesBucket", "MergedBucket"])
def test_what_was_acknowledged_outlives_the_stack(name: str) -> None:
    assert RESOURCES[name]["DeletionPolicy"] == "RetainExceptOnCreate"
    assert RESOURCES[name]["UpdateReplacePolicy"] == "Retain"


def test_the_longest_session_ends_a_day_before_its_latest_finish() -> None:
    longest = PARAMETERS["SessionLifetimeHours"]["MaxValue"] * 3600
    assert longest + DAY <= limits.LATEST_FINISH_SECONDS


# --- Permissions ---


TRACING: Final = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
STATE_MACHINES_LOGS_AND_TRACES: Final = {
    *TRACING,
    "xray:GetSamplingRules",
    "xray:GetSamplingTargets",
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
}
ANYWHERE: Final = {
    "MergeStateMachineRole": STATE_MACHINES_LOGS_AND_TRACES,
    "CleanupRole": {*TRACING, "dynamodb:ListStreams"},
    "EventsRole": {*TRACING, "dynamodb:ListStreams"},
}
"""Actions that AWS cannot restrict to resources."""


@pytest.mark.parametrize("role", ROLES)
def test_a_role_allows_named_actions_on_named_resources(role: str) -> None:
    anywhere = ANYWHERE.get(role, TRACING)
    for action, resource in allowed(role):
        assert re.fullmatch(r"[a-z0-9]+:[A-Za-z]+", action)
        assert (resource == "*") == (action in anywhere)


SESSION: Final = "?" * 32
MAY_BE_DONE: Final = {
    f"${{BatchesBucket.Arn}}/{SESSION}/????????": {"PutObject", "GetObject", "DeleteObject"},
    f"${{BatchesBucket.Arn}}/merges/{SESSION}/*": {"PutObject", "GetObject", "DeleteObject"},
    f"${{BatchesBucket.Arn}}/merges/{SESSION}/*/plan.json": {"GetObject"},
    f"${{BatchesBucket.Arn}}/merges/{SESSION}/*/failed.json": {"PutObject", "GetObject"},
    f"${{MergedBucket.Arn}}/{SESSION}.ndjson*": {
        "PutObject",
        "GetObject",
        "DeleteObject",
        "AbortMultipartUpload",
        "ListMultipartUploadParts",
    },
    f"${{MergedBucket.Arn}}/{SESSION}.manifest.json": {"PutObject", "GetObject", "DeleteObject"},
}
"""The largest permissions of any role, by the form of the keys."""


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_objects_of_the_right_form_only(role: str) -> None:
    buckets = [{"GetAtt": f"{bucket}.Arn"} for bucket in BUCKETS]
    for action, resource in allowed(role):
        service, _, name = action.partition(":")
        if service != "s3":
            continue
        if name in {"ListBucket", "ListBucketMultipartUploads"}:
            assert resource in buckets
        else:
            assert name in MAY_BE_DONE[resource["Sub"]]


def listed_by(role: str) -> Callable[[str], bool]:
    """Whether a role may list a prefix."""
    (statement,) = (
        statement
        for policy in ROLES[role]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Action"] == "s3:ListBucket"
    )
    patterns = statement["Condition"]["StringLike"]["s3:prefix"]
    return lambda prefix: any(fnmatchcase(prefix, pattern) for pattern in patterns)


def test_the_sessions_function_lists_a_sessions_batches_or_report_and_nothing_else() -> None:
    listed = listed_by("SessionsRole")
    session_id = "0" * 32
    assert all(map(listed, [f"{session_id}/", f"merges/{session_id}/12/"]))
    assert not any(map(listed, ["", "0", "merges/", f"merges/{session_id}"]))


def test_the_clean_up_lists_what_is_left_of_a_session_and_nothing_else() -> None:
    listed = listed_by("CleanupRole")
    session_id = "0" * 32
    assert all(map(listed, [f"{session_id}/", f"merges/{session_id}/"]))
    assert not any(map(listed, ["", "0", "merges/", f"merges/{session_id}", session_id]))


def test_only_the_clean_up_deletes_batches() -> None:
    """No request deletes batches, or looks for other attempts' uploads."""
    for bucket, action in (
        ("BatchesBucket", "s3:DeleteObject"),
        ("MergedBucket", "s3:ListBucketMultipartUploads"),
    ):
        allowed_to = {
            role
            for role in ROLES
            for allowed_action, resource in allowed(role)
            if allowed_action == action and bucket in str(resource)
        }
        assert allowed_to == {"CleanupRole"}, action


@pytest.mark.parametrize("role", [f"{name}Role" for name in MAPPINGS])
def test_functions_of_the_stream_do_not_read_the_table(role: str) -> None:
    done = {action for action, _ in allowed(role) if action.startswith("dynamodb:")}
    assert done == {
        "dynamodb:DescribeStream",
        "dynamodb:GetRecords",
        "dynamodb:GetShardIterator",
        "dynamodb:ListStreams",
    }
    for action, resource in allowed(role):
        if action in done and action != "dynamodb:ListStreams":
            assert resource == {"GetAtt": "SessionsTable.StreamArn"}


def test_only_functions_that_publish_write_manifests() -> None:
    manifests = {"Sub": f"${{MergedBucket.Arn}}/{SESSION}.manifest.json"}
    writers = {role for role in ROLES if ("s3:PutObject", manifests) in allowed(role)}
    assert writers == {"FinishRole", "CompleteRole"}


@pytest.mark.parametrize("role", [f"{task.removesuffix('Function')}Role" for task in sorted(TASKS)])
def test_a_task_of_a_long_merge_writes_no_batch(role: str) -> None:
    batches = {"Sub": f"${{BatchesBucket.Arn}}/{SESSION}/????????"}
    done = {action for action, resource in allowed(role) if resource == batches}
    assert done <= {"s3:GetObject"}


def test_only_the_sessions_function_deletes_merged_objects_and_none_a_session() -> None:
    may = {
        (role, resource["Sub"])
        for role in ROLES
        for action, resource in allowed(role)
        if action == "s3:DeleteObject" and "MergedBucket" in resource["Sub"]
    }
    merged = {f"${{MergedBucket.Arn}}/{SESSION}{end}" for end in (".ndjson*", ".manifest.json")}
    assert may == {("SessionsRole", resource) for resource in merged}
    assert "dynamodb:DeleteItem" not in {action for role in ROLES for action, _ in allowed(role)}


def test_what_is_deleted_leaves_no_version() -> None:
    for bucket in of_type("AWS::S3::Bucket").values():
        assert "VersioningConfiguration" not in bucket


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_function_has_its_own_role_and_log_group(function: str) -> None:
    properties = FUNCTIONS[function]
    name = function.removesuffix("Function")
    assert properties["Role"] == {"GetAtt": f"{name}Role.Arn"}
    assert properties["LoggingConfig"]["LogGroup"] == {"Ref": f"{name}Logs"}
    logs = [(action, resource) for action, resource in allowed(f"{name}Role") if "logs:" in action]
    mine = {"GetAtt": f"{name}Logs.Arn"}
    assert logs == [("logs:CreateLogStream", mine), ("logs:PutLogEvents", mine)]
    for policy in ROLES[f"{name}Role"]["Policies"]:
        assert "logs:CreateLogGroup" not in str(policy)


def test_log_groups_have_a_retention() -> None:
    groups = of_type("AWS::Logs::LogGroup")
    # One for each function, the API and the state machine.
    assert len(groups) == len(FUNCTIONS) + 2
    assert len({group["LogGroupName"]["Sub"] for group in groups.values()}) == len(groups)
    for group in groups.values():
        assert group["RetentionInDays"] == {"Ref": "LogRetentionDays"}


# --- The API ---


def test_callers_sign_by_default() -> None:
    assert PARAMETERS["AuthMode"]["Default"] == "IAM"
    assert set(PARAMETERS["AuthMode"]["AllowedValues"]) == set(AuthMode)
    for route in of_type("AWS::ApiGatewayV2::Route").values():
        assert route["AuthorizationType"] == {
            "If": ["IsIam", "AWS_IAM", {"If": ["IsJwt", "JWT", "NONE"]}]
        }
        assert route["AuthorizerId"] == {
            "If": ["IsJwt", {"Ref": "JwtAuthorizer"}, {"Ref": "AWS::NoValue"}]
        }


def test_no_foreign_page_gets_in_by_default() -> None:
    assert PARAMETERS["AllowedOrigins"]["Default"] == ""
    for cors in (API["CorsConfiguration"], BUCKETS["MergedBucket"]["CorsConfiguration"]):
        condition, _, otherwise = cors["If"]
        assert (condition, otherwise) == ("HasOrigins", {"Ref": "AWS::NoValue"})


def test_pages_may_send_and_see_what_the_protocol_uses() -> None:
    _, cors, _ = API["CorsConfiguration"]["If"]
    used = {
        key.partition(" ")[0] for key in (route.key for route in Template.load(TEMPLATE).routes)
    }
    assert set(cors["AllowMethods"]) == used
    protocol = {"content-type", "content-encoding", "content-digest", "idempotency-key"}
    assert protocol | {"authorization"} <= {*cors["AllowHeaders"]}
    assert {"location", "retry-after"} <= {*cors["ExposeHeaders"]}


def test_the_stage_is_throttled() -> None:
    assert STAGE["DefaultRouteSettings"] == {
        "ThrottlingRateLimit": {"Ref": "ThrottlingRate"},
        "ThrottlingBurstLimit": {"Ref": "ThrottlingBurst"},
    }


def test_there_is_no_index_without_owners() -> None:
    table = RESOURCES["SessionsTable"]["Properties"]
    condition, (index,), otherwise = table["GlobalSecondaryIndexes"]["If"]
    assert (condition, otherwise) == ("HasOwners", {"Ref": "AWS::NoValue"})
    condition, with_owners, without = table["AttributeDefinitions"]["If"]
    assert condition == "HasOwners"
    assert [attribute["AttributeName"] for attribute in without] == ["sessionId"]
    # The types of the items: a time as a string would make every write fail.
    types = {each["AttributeName"]: each["AttributeType"] for each in with_owners}
    assert types == {"sessionId": "S", "owner": "S", "createdAt": "N"}
    keys = {key["KeyType"]: key["AttributeName"] for key in index["KeySchema"]}
    assert keys == {"HASH": "owner", "RANGE": "createdAt"}
    # Moves that only renew the lease do not write the index.
    projected = {*index["Projection"]["NonKeyAttributes"]}
    assert not projected & {"leaseUntil", "holder", "attempt", "upload", "result", "counted"}


def test_the_access_log_is_json_and_has_no_secrets() -> None:
    line = json.loads(STAGE["AccessLogSettings"]["Format"])
    assert line["requestId"] == "$context.requestId"
    assert line["route"] == "$context.routeKey"
    # With AuthMode NONE the id in the path is a secret.
    assert not re.search(r"\$context\.path|querystring|body", str(line), re.IGNORECASE)


def test_a_v2_resource_comes_before_the_first_function() -> None:
    kinds = [resource["Type"] for resource in RESOURCES.values()]
    first_v2 = next(n for n, kind in enumerate(kinds) if kind.startswith("AWS::ApiGatewayV2::"))
    assert first_v2 < kinds.index("AWS::Serverless::Function"), "`sam local` mounts no routes"


# --- The functions ---


def test_the_functions_get_all_their_settings() -> None:
    environment = Template.load(TEMPLATE).environment({**LOCAL_VALUES, "AuthMode": "IAM"})
    config = Config.from_env({**environment, "AWS_REGION": "eu-central-1"})
    assert config.auth_mode is AuthMode.IAM
    assert config.session_lifetime == PARAMETERS["SessionLifetimeHours"]["Default"] * 3600
    assert config.merged_retention == PARAMETERS["MergedRetentionDays"]["Default"] * DAY


def test_the_api_keeps_its_three_functions() -> None:
    assert {"SessionsFunction", "BatchesFunction", "FinishFunction"} == BEHIND_THE_API


def timeout(function: str) -> int:
    seconds: int = {**STACK["Globals"]["Function"], **FUNCTIONS[function]}["Timeout"]
    return seconds


@pytest.mark.parametrize("function", sorted(BEHIND_THE_API))
def test_a_function_behind_the_api_ends_before_the_api_gives_up(function: str) -> None:
    assert timeout(function) < 30


@pytest.mark.parametrize("function", sorted(TASKS))
def test_a_task_of_a_long_merge_ends_before_its_lease(function: str) -> None:
    assert timeout(function) <= limits.TASK_LEASE_SECONDS - 60


# --- Clean-up ---


def wanted(record: Node) -> bool:
    """Whether the event source mapping passes a record."""
    patterns = [json.loads(one["Pattern"]) for one in CLEANUP["FilterCriteria"]["Filters"]]
    return any(streams.matches(record, pattern) for pattern in patterns)


def change(event: str, old: str | None, new: str | None) -> Node:
    images = {
        name: {"sessionId": {"S": "0" * 32}, "state": {"S": state}}
        for name, state in (("OldImage", old), ("NewImage", new))
        if state
    }
    return {"eventName": event, "dynamodb": {"Keys": {"sessionId": {"S": "0" * 32}}, **images}}


@pytest.mark.parametrize("old", State)
def test_sessions_are_cleaned_up_after_that_are_over(old: State) -> None:
    brought = {new for new in State if wanted(change("MODIFY", old, new))}
    assert brought == {State.FINISHED, State.ABORTED}
    assert not wanted(change("INSERT", None, old))
    removed = change("REMOVE", old, None)
    assert not wanted(removed), "it may be restored"
    assert wanted({**removed, "userIdentity": streams.TIME_TO_LIVE})


def test_items_without_a_state_are_none_of_its_business() -> None:
    images: Node = {"Keys": {}, "OldImage": {}, "NewImage": {}}
    assert not wanted({"eventName": "MODIFY", "dynamodb": images})
    # The time to live also removes items of Idempotency-Keys.
    over = {"eventName": "REMOVE", "userIdentity": streams.TIME_TO_LIVE}
    assert not wanted({**over, "dynamodb": images})


@pytest.mark.parametrize("name", MAPPINGS)
def test_failing_records_are_retried_and_reported(name: str) -> None:
    mapping = MAPPINGS[name]
    assert TABLE["StreamSpecification"] == {"StreamViewType": "NEW_AND_OLD_IMAGES"}
    assert mapping["EventSourceArn"] == {"GetAtt": "SessionsTable.StreamArn"}
    assert mapping["StartingPosition"] == "TRIM_HORIZON", "no record is missed meanwhile"
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BisectBatchOnFunctionError"] is True
    destination = mapping["DestinationConfig"]["OnFailure"]["Destination"]
    assert destination == {"GetAtt": f"{name}Failures.Arn"}
    assert ("sqs:SendMessage", destination) in allowed(f"{name}Role")
    assert of_type("AWS::SQS::Queue")[f"{name}Failures"]["SqsManagedSseEnabled"] is True
    # A record that Lambda gave up is in the stream for the rest of a day.
    assert mapping["MaximumRecordAgeInSeconds"] <= DAY / 2
    # Retries outlast minutes of throttling, or a bus that refuses, up to the records' maximum age.
    retries = mapping["MaximumRetryAttempts"]
    assert retries == -1 if name == "Events" else retries * limits.PATIENCE_SECONDS >= 20 * 60


def test_the_events_function_does_nothing_but_publish() -> None:
    bus = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/${EventBusName}"
    others = {
        (action, str(resource))
        for action, resource in allowed("EventsRole")
        if action.partition(":")[0] not in {"dynamodb", "logs", "xray", "sqs"}
    }
    assert others == {("events:PutEvents", str({"Sub": bus}))}
    for role in ROLES:
        assert role == "EventsRole" or "events:PutEvents" not in dict(allowed(role))
    variables = FUNCTIONS["EventsFunction"]["Environment"]["Variables"]
    assert variables == {"EVENT_BUS": {"Ref": "EventBusName"}}


def test_the_clean_up_has_time_for_the_largest_sessions() -> None:
    batches = CLEANUP["BatchSize"] * (limits.MAX_SEQ_NUM + 1)
    assert timeout("CleanupFunction") >= 2 * batches / limits.DELETES_PER_SECOND


# --- The state machine ---


def definition() -> Node:
    found: Node = json.loads((ROOT / STATE_MACHINE["DefinitionUri"]).read_text(encoding="utf-8"))
    return found


def test_only_finish_starts_long_merges() -> None:
    machine = {"Ref": "MergeStateMachine"}
    starters = {role for role in ROLES if ("states:StartExecution", machine) in allowed(role)}
    assert starters == {"FinishRole"}
    told = {
        name: function["Environment"]["Variables"]
        for name, function in FUNCTIONS.items()
        if "Environment" in function
    }
    del told["EventsFunction"]
    assert told == {"FinishFunction": {"MERGE_STATE_MACHINE": machine}}


def test_the_state_machine_calls_its_tasks_and_nothing_else() -> None:
    assert STATE_MACHINE["Role"] == {"GetAtt": "MergeStateMachineRole.Arn"}
    (trust,) = ROLES["MergeStateMachineRole"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "states.amazonaws.com"}
    arns = {
        resource["GetAtt"]
        for action, resource in allowed("MergeStateMachineRole")
        if action == "lambda:InvokeFunction"
    }
    assert arns == {f"{task}.Arn" for task in TASKS}


def test_the_state_machine_may_start_only_its_own_children() -> None:
    """A distributed map's children are executions; the role allows them by name."""
    name = STATE_MACHINE["Name"]["Sub"]
    found = {
        (action, resource["Sub"].removeprefix("arn:${AWS::Partition}:states:"))
        for action, resource in allowed("MergeStateMachineRole")
        if action.startswith("states:")
    }
    place = "${AWS::Region}:${AWS::AccountId}"
    assert found == {
        ("states:StartExecution", f"{place}:stateMachine:{name}"),
        ("states:DescribeExecution", f"{place}:execution:{name}/*"),
        ("states:StopExecution", f"{place}:execution:{name}/*"),
        ("states:RedriveExecution", f"{place}:execution:{name}/*"),
    }


def test_the_state_machine_logs_failures_without_data() -> None:
    assert STATE_MACHINE["Type"] == "STANDARD"
    assert STATE_MACHINE["Logging"] == {
        "IncludeExecutionData": False,
        "Level": "ERROR",
        "Destinations": [
            {
                "CloudWatchLogsLogGroup": {
                    "LogGroupArn": {"GetAtt": "MergeStateMachineLogs.Arn"},
                }
            }
        ],
    }


# --- Seeing it run ---


def metrics_of_ours() -> Iterator[tuple[str, object]]:
    """Each metric of the service's own that an alarm or the dashboard shows, and its service."""
    for alarm in ALARMS.values():
        # None for an alarm on an expression of AWS metrics.
        if alarm.get("Namespace") == "Gapless":
            ((name, service),) = ((d["Name"], d["Value"]) for d in alarm["Dimensions"])
            assert name == "service"
            yield alarm["MetricName"], service
    for widget in widgets():
        for metric in widget["properties"].get("metrics", []):
            if metric[0] == "Gapless":
                assert metric[2] == "service"
                yield metric[1], {"Ref": metric[3].removeprefix("${").removesuffix("}")}


def widgets() -> list[Node]:
    (dashboard,) = of_type("AWS::CloudWatch::Dashboard").values()
    found: list[Node] = json.loads(dashboard["DashboardBody"]["Sub"])["widgets"]
    return found


def test_every_metric_shown_is_emitted_by_this_stack() -> None:
    variables = STACK["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == "Gapless"
    (from_logs,) = of_type("AWS::Logs::MetricFilter").values()
    (transformation,) = from_logs["MetricTransformations"]
    assert transformation["MetricNamespace"] == "Gapless"
    modules = (ROOT / "functions").rglob("*.py")
    code = "".join(module.read_text(encoding="utf-8") for module in modules)
    emitted = {
        *re.findall(r'(?:add_metric|\bcount)\(\s*"(\w+)"', code),
        transformation["MetricName"],
    }
    shown = dict(metrics_of_ours())
    assert set(shown) == emitted
    assert all(service == variables["POWERTOOLS_SERVICE_NAME"] for service in shown.values())


def test_the_dashboard_shows_every_alarm() -> None:
    (shown,) = (widget["properties"]["alarms"] for widget in widgets() if widget["type"] == "alarm")
    assert set(shown) == {f"${{{name}.Arn}}" for name in ALARMS}


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_is_sent_and_explained(name: str) -> None:
    alarm = ALARMS[name]
    sent = {"If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
    assert alarm["AlarmActions"] == alarm["OKActions"] == sent
    # No data means no traffic.
    assert alarm["TreatMissingData"] == "notBreaching"
    (runbook,) = re.findall(r'"(.+)"', alarm["AlarmDescription"])
    _, _, below = operations().partition(f"\n### {runbook}\n")
    assert name in below.partition("\n### ")[0]


# --- The whole ---


def operations() -> str:
    return (ROOT / "docs/operations.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("output", STACK["Outputs"])
def test_an_output_is_documented(output: str) -> None:
    assert f"`{output}`" in operations()


UNTAGGABLE: Final = {
    "AWS::ApiGatewayV2::ApiMapping",
    "AWS::ApiGatewayV2::Authorizer",
    "AWS::ApiGatewayV2::Integration",
    "AWS::ApiGatewayV2::Route",
    "AWS::Lambda::Permission",
    "AWS::Logs::MetricFilter",
    "AWS::S3::BucketPolicy",
}


def test_all_that_can_be_is_tagged() -> None:
    for name, resource in RESOURCES.items():
        if resource["Type"] in UNTAGGABLE:
            continue
        defaults = STACK["Globals"]["Function"] if name in FUNCTIONS else {}
        tags = {**defaults, **resource["Properties"]}["Tags"]
        if isinstance(tags, list):
            tags = {tag["Key"]: tag["Value"] for tag in tags}
        assert tags == {"application": "gapless"}, name


def test_no_anchors() -> None:
    """CloudFormation supports no anchors, and neither do some tools that check the template."""
    tokens = list(yaml.scan(TEMPLATE.read_text(encoding="utf-8")))
    assert not [token for token in tokens if isinstance(token, yaml.AliasToken)]
