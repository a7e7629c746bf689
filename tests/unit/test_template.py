"""The reader of template.yaml, on a small template and on ours."""

from pathlib import Path

import pytest

from local.stack import LOCAL_VALUES, TEMPLATE
from local.template import Template

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
      SSESpecification: {SSEEnabled: true}
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
    }
    assert table.time_to_live == {"AttributeName": "until", "Enabled": True}


def test_code_is_beside_the_template(tmp_path: Path) -> None:
    assert load(tmp_path).code == tmp_path / "code"


def test_our_template() -> None:
    template = Template.load(TEMPLATE)
    assert {route.key: route.function.handler for route in template.routes} == {
        "POST /api/upload/sessions": "sessions.lambda_handler",
        "GET /api/upload/sessions/{sessionId}": "sessions.lambda_handler",
        "GET /api/upload/sessions/{sessionId}/file": "sessions.lambda_handler",
        "GET /api/upload/sessions/{sessionId}/manifest": "sessions.lambda_handler",
        "DELETE /api/upload/sessions/{sessionId}": "sessions.lambda_handler",
        "POST /api/upload/sessions/{sessionId}": "batches.lambda_handler",
        "POST /api/upload/sessions/{sessionId}/finish": "finish.lambda_handler",
    }
    environment = template.environment(LOCAL_VALUES)
    assert environment["AUTH_MODE"] == "NONE"
    assert environment["MERGE_STATE_MACHINE"] == "", "a local run merges in line"
    assert template.table.create["KeySchema"] == [{"AttributeName": "sessionId", "KeyType": "HASH"}]
