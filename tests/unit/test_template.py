"""The parser of template.yaml, on a small template; conditions and rules of the real one."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from local.in_process import TEMPLATE
from local.template import Node, Template, _Loader

OPERATIONS = TEMPLATE.parent / "docs/operations.md"

SMALL = """
Parameters:
  Days: {Type: Number, Default: 3}
  Loud: {Type: String, Default: true}
Globals:
  Function:
    CodeUri: code/
    Timeout: 29
    MemorySize: 128
    Environment:
      Variables: {DAYS: !Ref Days, LOUD: !Ref Loud, TABLE: !Ref Table}
Resources:
  Integration:
    Type: AWS::ApiGatewayV2::Integration
    Properties: {IntegrationUri: !GetAtt Reader.Arn}
  List:
    Type: AWS::ApiGatewayV2::Route
    Properties: &route
      RouteKey: GET /things
      Target: !Sub integrations/${Integration}
      AuthorizerId: !If [Never, !Ref Nothing, !Ref AWS::NoValue]
  Show:
    Type: AWS::ApiGatewayV2::Route
    Properties:
      <<: *route
      RouteKey: GET /things/{id}
  Reader:
    Type: AWS::Serverless::Function
    Properties:
      Handler: reader.lambda_handler
      Timeout: 5
      Environment:
        Variables: {GREETING: !Sub "Hello ${Table}, ${Days} days"}
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      KeySchema: [{AttributeName: id, KeyType: HASH}]
      AttributeDefinitions: [{AttributeName: id, AttributeType: S}]
      TimeToLiveSpecification: {AttributeName: until, Enabled: true}
      StreamSpecification: {StreamViewType: KEYS_ONLY}
      SSESpecification: {SSEEnabled: true}
  Mapping:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      EventSourceArn: !GetAtt Table.StreamArn
      FunctionName: !Ref Reader
      FilterCriteria: {Filters: [{Pattern: '{"eventName":["REMOVE"]}'}]}
      BatchSize: 7
      MaximumRetryAttempts: 3
"""


def load(folder: Path, text: str = SMALL) -> Template:
    file = folder / "template.yaml"
    file.write_text(text, encoding="utf-8")
    return Template.load(file)


def test_routes_lead_to_functions(tmp_path: Path) -> None:
    first, second = load(tmp_path).routes
    assert [first.key, second.key] == ["GET /things", "GET /things/{id}"]
    assert first.function == second.function
    assert first.function.name == "Reader"
    assert first.function.handler == "reader.lambda_handler"


def test_a_function_overrides_the_globals(tmp_path: Path) -> None:
    function = load(tmp_path).routes[0].function
    assert (function.timeout, function.memory) == (5, 128)


def test_environment_is_resolved(tmp_path: Path) -> None:
    assert load(tmp_path).environment({"Table": "things", "Days": "7"}) == {
        "DAYS": "7",
        "LOUD": "true",
        "TABLE": "things",
        "GREETING": "Hello things, 7 days",
    }


def test_an_unknown_reference_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="Table"):
        load(tmp_path).environment({})


def test_functions_that_differ_cannot_share_a_process(tmp_path: Path) -> None:
    text = SMALL.replace("{GREETING:", "{DAYS: 4, GREETING:")
    with pytest.raises(ValueError, match="DAYS"):
        load(tmp_path, text).environment({"Table": "things"})


def test_the_table_is_as_boto3_takes_it(tmp_path: Path) -> None:
    table = load(tmp_path).table
    assert table.create == {
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "StreamSpecification": {"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"},
    }
    assert table.time_to_live == {"AttributeName": "until", "Enabled": True}


def test_the_stream_leads_to_a_function(tmp_path: Path) -> None:
    ((handler, source),) = load(tmp_path).event_sources.items()
    assert source.function.handler == handler == "reader.lambda_handler"
    assert source.patterns == [{"eventName": ["REMOVE"]}]
    assert (source.batch_size, source.retries) == (7, 3)


def test_code_is_beside_the_template(tmp_path: Path) -> None:
    assert load(tmp_path).code == tmp_path / "code"


@cache
def _document() -> Node:
    document: Node = _Loader(TEMPLATE.read_text(encoding="utf-8")).get_single_data()
    return document


class Stack:
    """The real template as CloudFormation resolves it: parameters, conditions, references."""

    def __init__(self, **given: str) -> None:
        self.document = _document()
        defaults = {
            name: str(parameter.get("Default", ""))
            for name, parameter in self.document["Parameters"].items()
        }
        assert given.keys() <= defaults.keys()
        self.parameters = defaults | given

    def holds(self, condition: Any) -> bool:  # noqa: ANN401 - any condition
        match condition:
            case str(name):
                return self.holds(self.document["Conditions"][name])
            case {"Fn::Not": [inner]}:
                return not self.holds(inner)
            case {"Fn::Equals": [left, right]}:
                return bool(self.value(left) == self.value(right))
        raise ValueError(condition)

    def value(self, node: Any) -> Any:  # noqa: ANN401 - any part of a template
        found = node
        match node:
            case {"Fn::If": [name, yes, no]}:
                found = self.value(yes if self.holds(name) else no)
            case {"Ref": name} if name in self.parameters:
                found = self.parameters[name]
            case {"Fn::Join": [between, {"Ref": name}]}:
                found = str(between).join(self.parameters[name].split(","))
            case {"Fn::Sub": str(text)}:
                known = self.parameters
                found = re.sub(r"\$\{(\w+)\}", lambda one: known.get(one[1], one[0]), text)
            case dict():
                found = {name: self.value(inner) for name, inner in node.items()}
            case list():
                found = [self.value(inner) for inner in node]
        return found

    def resources(self, kind: str) -> dict[str, Node]:
        """The resources of a type whose condition holds."""
        return {
            name: self.value(resource)
            for name, resource in self.document["Resources"].items()
            if resource["Type"] == kind and self.holds_for(resource)
        }

    @property
    def outputs(self) -> dict[str, Any]:
        return {
            name: self.value(output["Value"])
            for name, output in self.document["Outputs"].items()
            if self.holds_for(output)
        }

    def holds_for(self, entry: Node) -> bool:
        return "Condition" not in entry or self.holds(entry["Condition"])

    def broken_rules(self) -> list[str]:
        """The assertions of the rules that fail for the parameters."""
        return [
            assertion["AssertDescription"]
            for rule in self.document["Rules"].values()
            if self.holds(rule["RuleCondition"])
            for assertion in rule["Assertions"]
            if not self.holds(assertion["Assert"])
        ]


CERTIFICATE = "arn:aws:acm:us-east-1:123456789012:certificate/0"
DOMAIN = {"DomainName": "uploads.example.com", "CertificateArn": CERTIFICATE}


def test_expensive_routes_have_their_own_throttles() -> None:
    stack = Stack(FinishThrottlingRate="7", StatusThrottlingBurst="9", ListThrottlingRate="5")
    (stage,) = stack.resources("AWS::ApiGatewayV2::Stage").values()
    assert stage["Properties"]["RouteSettings"] == {
        "GET /api/upload/sessions": {"ThrottlingRateLimit": "5", "ThrottlingBurstLimit": "100"},
        "GET /api/upload/sessions/{sessionId}": {
            "ThrottlingRateLimit": "100",
            "ThrottlingBurstLimit": "9",
        },
        "POST /api/upload/sessions/{sessionId}/finish": {
            "ThrottlingRateLimit": "7",
            "ThrottlingBurstLimit": "50",
        },
    }
    assert stage["Properties"]["DefaultRouteSettings"] == {
        "ThrottlingRateLimit": "1000",
        "ThrottlingBurstLimit": "500",
    }


def test_routes_with_settings_are_made_before_the_stage() -> None:
    stack = Stack()
    (stage,) = stack.resources("AWS::ApiGatewayV2::Stage").values()
    routes = {
        route["Properties"]["RouteKey"]: name
        for name, route in stack.resources("AWS::ApiGatewayV2::Route").items()
    }
    settings = stage["Properties"]["RouteSettings"]
    assert {routes[key] for key in settings} == set(stage["DependsOn"])


def test_there_is_no_domain_unless_one_is_asked_for() -> None:
    stack = Stack()
    assert not stack.resources("AWS::ApiGatewayV2::DomainName")
    assert not stack.resources("AWS::ApiGatewayV2::ApiMapping")
    (api,) = stack.resources("AWS::ApiGatewayV2::Api").values()
    assert api["Properties"]["DisableExecuteApiEndpoint"] == "false"
    assert stack.outputs["Url"] == {"Fn::GetAtt": "Api.ApiEndpoint"}
    assert not {"DomainTarget", "DomainTargetZone"} & stack.outputs.keys()


def test_a_domain_leads_to_the_stage() -> None:
    stack = Stack(**DOMAIN, DisableExecuteApiEndpoint="true")
    ((name, domain),) = stack.resources("AWS::ApiGatewayV2::DomainName").items()
    assert domain["Properties"]["DomainName"] == "uploads.example.com"
    assert domain["Properties"]["DomainNameConfigurations"] == [
        {
            "CertificateArn": CERTIFICATE,
            "EndpointType": "REGIONAL",
            "SecurityPolicy": "TLS_1_2",
        }
    ]
    (mapping,) = stack.resources("AWS::ApiGatewayV2::ApiMapping").values()
    assert mapping["Properties"] == {
        "ApiId": {"Ref": "Api"},
        "DomainName": {"Ref": name},
        "Stage": {"Ref": "ApiStage"},
    }
    (api,) = stack.resources("AWS::ApiGatewayV2::Api").values()
    assert api["Properties"]["DisableExecuteApiEndpoint"] == "true"
    assert stack.outputs["Url"] == "https://uploads.example.com"
    assert stack.outputs["DomainTarget"] == {"Fn::GetAtt": f"{name}.RegionalDomainName"}
    assert stack.outputs["DomainTargetZone"] == {"Fn::GetAtt": f"{name}.RegionalHostedZoneId"}


@pytest.mark.parametrize(
    ("given", "broken"),
    [
        ({}, []),
        (DOMAIN, []),
        (DOMAIN | {"DisableExecuteApiEndpoint": "true"}, []),
        ({"DomainName": "uploads.example.com"}, ["DomainName needs CertificateArn."]),
        ({"CertificateArn": CERTIFICATE}, ["CertificateArn needs DomainName."]),
        (
            {"DisableExecuteApiEndpoint": "true"},
            ["DisableExecuteApiEndpoint needs DomainName, or nobody reaches the API."],
        ),
    ],
)
def test_parameters_that_need_each_other(given: dict[str, str], broken: list[str]) -> None:
    assert Stack(**given).broken_rules() == broken


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "DomainName",
            ["", "example.com", "a-b.uploads.example.com"],
            ["https://example.com", "Example.com", "example", "*.example.com", "-a.example.com"],
        ),
        ("CertificateArn", ["", CERTIFICATE], ["0", "arn:aws:iam::123456789012:user/x"]),
    ],
)
def test_parameters_are_checked(name: str, good: list[str], bad: list[str]) -> None:
    pattern = re.compile(Stack().document["Parameters"][name]["AllowedPattern"])
    assert [value for value in good if not pattern.fullmatch(value)] == []
    assert [value for value in bad if pattern.fullmatch(value)] == []


def watched(alarm: Node) -> set[tuple[str, str]]:
    """The metrics of an alarm: (namespace or function, name)."""
    metrics = [entry["MetricStat"]["Metric"] for entry in alarm.get("Metrics", [])[1:]] or [alarm]
    found = set()
    for metric in metrics:
        (dimension,) = metric["Dimensions"]
        value = dimension["Value"]
        found.add((value.get("Ref") or value["Fn::GetAtt"], metric["MetricName"]))
    return found


def test_every_way_to_fail_has_an_alarm() -> None:
    stack = Stack()
    alarms = stack.resources("AWS::CloudWatch::Alarm")
    assert set().union(*(watched(alarm["Properties"]) for alarm in alarms.values())) == {
        ("Api", "5xx"),
        ("AWS::StackName", "FinishFailures"),
        ("AWS::StackName", "FinishingSeconds"),
        ("AWS::StackName", "StorageBusy"),
        ("FinishFunction", "Errors"),
        ("MergeStateMachine", "ExecutionsFailed"),
        ("MergeStateMachine", "ExecutionsTimedOut"),
        ("MergeStateMachine", "ExecutionsAborted"),
        ("SessionsTable", "ReadThrottleEvents"),
        ("SessionsTable", "WriteThrottleEvents"),
        ("CleanupFailures.QueueName", "ApproximateNumberOfMessagesVisible"),
        ("CleanupFunction", "IteratorAge"),
        ("EventsFailures.QueueName", "ApproximateNumberOfMessagesVisible"),
        ("EventsFunction", "IteratorAge"),
        *((name, "Throttles") for name in stack.resources("AWS::Serverless::Function")),
    }


def test_the_dashboard_names_existing_resources_and_no_widgets_overlap() -> None:
    stack = Stack()
    body = stack.document["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    for name in re.findall(r"\$\{(\w+)(?:\.\w+)?\}", body):
        assert name in stack.document["Resources"], name
    widgets = json.loads(re.sub(r"\$\{[\w.:]+\}", "x", body))["widgets"]
    places = [
        (w["x"] + dx, w["y"] + dy)
        for w in widgets
        for dx in range(w["width"])
        for dy in range(w["height"])
    ]
    assert len(places) == len(set(places)), "no widget lies on another"


def test_every_parameter_is_explained() -> None:
    listed = re.findall(r"^\| `(\w+)` \|([^|]*)\|", OPERATIONS.read_text("utf-8"), re.MULTILINE)
    told = {name: default.strip(" `") for name, default in listed}
    for name, parameter in Stack().document["Parameters"].items():
        assert told[name] == str(parameter["Default"]), name
