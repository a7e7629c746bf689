"""A third stack: with a custom domain name, and API Gateway's own endpoint disabled."""

from collections.abc import Iterator
from dataclasses import dataclass

import boto3
import pytest

from local import ministack
from tests.api import Api, deployed
from tests.conftest import DEPLOYED, Stack

NAME = "gapless-domain"
DOMAIN = "uploads.example.com"


@dataclass(frozen=True)
class Deployment:
    """The certificate, and the stack's outputs."""

    certificate: str
    outputs: dict[str, str]

    @property
    def api_id(self) -> str:
        """The API's id, which a URL with a custom domain does not contain."""
        found = boto3.client("cloudformation").describe_stack_resource(
            StackName=NAME, LogicalResourceId="Api"
        )
        return found["StackResourceDetail"]["PhysicalResourceId"]


@pytest.fixture(scope="module")
def deployment(stack: Stack) -> Iterator[Deployment]:  # noqa: ARG001 - sets the environment
    arn = boto3.client("acm").request_certificate(DomainName=DOMAIN)["CertificateArn"]
    given = {"DomainName": DOMAIN, "CertificateArn": arn, "DisableExecuteApiEndpoint": "true"}
    yield Deployment(arn, ministack.deploy(NAME, {"AuthMode": "NONE", **given}))
    ministack.delete(NAME)


def test_the_outputs_contain_the_dns_record(deployment: Deployment) -> None:
    assert deployment.outputs["Url"] == f"https://{DOMAIN}"
    found = boto3.client("apigatewayv2").get_domain_name(DomainName=DOMAIN)
    (configuration,) = found["DomainNameConfigurations"]
    assert configuration["CertificateArn"] == deployment.certificate
    assert configuration["EndpointType"] == "REGIONAL"
    assert deployment.outputs["DomainTarget"]
    assert deployment.outputs["DomainTargetZone"]


def test_the_name_leads_to_the_api_and_its_own_address_is_off(deployment: Deployment) -> None:
    gateway = boto3.client("apigatewayv2")
    (mapping,) = gateway.get_api_mappings(DomainName=DOMAIN)["Items"]
    assert (mapping["ApiId"], mapping["Stage"]) == (deployment.api_id, "$default")
    # MiniStack stores the setting but still serves the endpoint.
    assert gateway.get_api(ApiId=deployment.api_id)["DisableExecuteApiEndpoint"] is True


def test_list_status_and_finish_have_throttles_of_their_own(deployment: Deployment) -> None:
    (stage,) = boto3.client("apigatewayv2").get_stages(ApiId=deployment.api_id)["Items"]
    # MiniStack does not return the numbers; tests/unit/test_template.py checks them.
    assert stage["RouteSettings"].keys() == {
        "GET /api/upload/sessions",
        "GET /api/upload/sessions/{sessionId}",
        "POST /api/upload/sessions/{sessionId}/finish",
    }


def test_an_upload_goes_through(deployment: Deployment) -> None:
    url = f"https://localhost:{ministack.port()}/_aws/execute-api/{deployment.api_id}"
    api = Api(deployed({"url": url, "ca": DEPLOYED["ca"]}))
    session_id = api.create(2)
    assert api.batch(session_id, 0, [1, 2]).status == 204
    assert api.finish(session_id).json["validationResult"] == "Success"
