"""``make stack``: deploys ``template.yaml`` to MiniStack, an emulator of AWS.

``python -m local.ministack up`` starts MiniStack on the loopback interface, IAM and TLS enforced,
runs ``sam build`` and ``sam deploy``, creates a user who may call the API, and prints the URL and a
signed curl command. ``down`` deletes the stack and stops MiniStack. Files are in ``build/stack``.

Environment: ``STACK_PORT``, by default 14566.
"""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.exceptions import WaiterError

from . import sam
from .runtime import runtime_bin

MINISTACK: Final = "ministack[full]==1.5.33"
HOME: Final = sam.ROOT / "build" / "stack"
STACK_FILE: Final = HOME / "stack.json"
"""The stack's description for the tests (``tests/conftest.py``)."""
BUILT: Final = HOME / "build"
ARTIFACTS: Final = "sam-artifacts"
PACKAGED: Final = HOME / "packaged.yaml"
LOG: Final = HOME / "ministack.log"
CERTIFICATE: Final = HOME / "tmp" / "ministack-tls" / "server.crt"
NAME: Final = "gapless"
REGION: Final = "us-east-1"
EMULATOR: Final = sam.ROOT / "local" / "ministack_patch.py"
START_SECONDS: Final = 300
STOP_SECONDS: Final = 60
LACKS: Final = {
    "odd paths": "signatures of paths with escaped dots and line ends are checked differently",
    "gateway limits": "requests of any size reach the functions",
}
"""What MiniStack's API Gateway does differently from AWS."""
CALLER: Final = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": "*"}],
}


class StackError(Exception):
    """The stack could not be started; the message says why."""


def main() -> None:
    """Start or stop the stack."""
    commands = {"up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:  # noqa: PLR2004
        sys.exit("usage: python -m local.ministack up|down")
    try:
        commands[sys.argv[1]]()
    except StackError as error:
        sys.exit(f"gapless: {error}")


def port() -> int:
    """MiniStack's port."""
    return int(os.environ.get("STACK_PORT", "14566"))


def environment() -> dict[str, str]:
    """Return the environment that points AWS clients and SAM to MiniStack."""
    return {
        "AWS_ENDPOINT_URL": f"https://localhost:{port()}",
        "AWS_CA_BUNDLE": str(CERTIFICATE),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
    }


def up() -> None:
    """Start MiniStack, deploy to it, and print how to call the API."""
    python = runtime_bin()
    if python is None:
        raise StackError("sam build and the functions need python3.13, which was not found")
    _install_ministack(python)
    if not _answers():
        _start_ministack()
    os.environ.update(environment())
    build()
    outputs = deploy(NAME, {})
    url = api_url(outputs)
    keys = make_caller("uploader")
    STACK_FILE.write_text(
        json.dumps(
            {
                "name": "MiniStack",
                "url": url,
                "table": outputs["SessionsTable"],
                "batchesBucket": outputs["BatchesBucket"],
                "mergedBucket": outputs["MergedBucket"],
                "environment": environment(),
                "credentials": keys,
                "ca": str(CERTIFICATE),
                "lacks": LACKS,
            },
            indent=2,
        )
    )
    print(
        f"Gapless is deployed, with IAM enforced, at\n  {url}",
        "Open a session for three records:",
        f"  curl --cacert {CERTIFICATE.relative_to(sam.ROOT)}"
        f" --aws-sigv4 aws:amz:{REGION}:execute-api"
        f" --user {keys['access_key']}:{keys['secret_key']} \\",
        f"""    '{url}/api/upload/sessions' -d '{{"totalRecord": 3}}'""",
        f"S3 and DynamoDB are at https://localhost:{port()}; make stack-down removes everything.",
        sep="\n",
    )


def down() -> None:
    """Delete the stack, stop MiniStack, and delete its files."""
    if _answers():
        os.environ.update(environment())
        delete(NAME)
    with suppress(FileNotFoundError, ProcessLookupError):
        process = int((HOME / "pid").read_text())
        # It cleans up after itself. If it has ended, another process may have its id.
        if _is_ministack(process):
            os.kill(process, signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        while _is_ministack(process):
            if time.monotonic() > until:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.1)
    for path in HOME.glob("*"):
        if path.name != "venv":
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    print("The stack is deleted.")


def build() -> None:
    """Build the packages, and upload them to where stacks are deployed from.

    Raises StackError.
    """
    print("sam build …", flush=True)
    done = sam.build(BUILT)
    if done.returncode:
        raise StackError(f"sam build failed:\n{done.stderr[-4000:]}")
    with suppress(boto3.client("s3").exceptions.BucketAlreadyOwnedByYou):
        boto3.client("s3").create_bucket(Bucket=ARTIFACTS)
    _sam(
        *("package", "--template-file", str(BUILT / "template.yaml"), "--s3-bucket", ARTIFACTS),
        *("--no-resolve-s3", "--output-template-file", str(PACKAGED)),
    )


def deploy(name: str, parameters: dict[str, str]) -> dict[str, str]:
    """Deploy a stack from the built packages; returns its outputs. Raises StackError."""
    print("sam deploy …", flush=True)
    _sam(
        *("deploy", "--template-file", str(PACKAGED), "--stack-name", name),
        *("--s3-bucket", ARTIFACTS, "--no-resolve-s3", "--capabilities", "CAPABILITY_IAM"),
        *("--no-confirm-changeset", "--no-fail-on-empty-changeset"),
        *sam.FOR_THIS_MACHINE,
        *(f"{key}={value}" for key, value in parameters.items()),
    )
    found = boto3.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}


def delete(name: str) -> None:
    """Delete a stack. Raises StackError."""
    # ``sam delete`` would also delete the packages, which other stacks share.
    cloudformation = boto3.client("cloudformation")
    cloudformation.delete_stack(StackName=name)
    try:
        cloudformation.get_waiter("stack_delete_complete").wait(
            StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": STOP_SECONDS}
        )
    except WaiterError as error:
        raise StackError(f"{name} was not deleted: {error}") from error


def api_url(outputs: dict[str, str]) -> str:
    """Return the API's URL at MiniStack; the host name in the outputs does not resolve."""
    api_id = outputs["Url"].partition("//")[2].partition(".")[0]
    return f"https://localhost:{port()}/_aws/execute-api/{api_id}"


def make_caller(name: str) -> dict[str, str]:
    """Create an IAM user who may only call the API; returns its keys."""
    iam = boto3.client("iam")
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="call", PolicyDocument=json.dumps(CALLER))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"access_key": key["AccessKeyId"], "secret_key": key["SecretAccessKey"]}


def _install_ministack(python: str) -> None:
    stamp = HOME / "venv" / MINISTACK
    if stamp.exists():
        return
    print(f"Installing {MINISTACK} into {HOME.relative_to(sam.ROOT)} (once) …", flush=True)
    venv = HOME / "venv"
    _run([f"{python}/python3.13", "-m", "venv", "--clear", venv])
    _run([venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", MINISTACK])
    stamp.touch()


def _start_ministack() -> None:
    """Start MiniStack on this machine only, with roles, users and bucket policies enforced."""
    temporary = HOME / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environ |= {
        "AUTH": "true",
        "USE_SSL": "1",
        "IOT_MTLS_ENABLED": "0",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port()),
        "STATE_DIR": str(HOME / "state"),
        "S3_DATA_DIR": str(HOME / "s3"),
        "TMPDIR": str(temporary),
        # MiniStack and the functions that it runs must trust its own certificate.
        "AWS_CA_BUNDLE": str(CERTIFICATE),
        "SSL_CERT_FILE": str(CERTIFICATE),
    }
    print("Starting MiniStack …", flush=True)
    with LOG.open("w") as log:
        process = subprocess.Popen(
            [HOME / "venv" / "bin" / "python", "-P", EMULATOR],
            env=environ,
            cwd=HOME,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (HOME / "pid").write_text(str(process.pid))
    until = time.monotonic() + START_SECONDS
    while not _answers():
        if process.poll() is not None or time.monotonic() > until:
            # `make stack-down` deletes the log.
            said = LOG.read_text(errors="replace").strip()[-4000:]
            raise StackError(f"MiniStack did not start. {LOG.relative_to(sam.ROOT)} ends:\n{said}")
        time.sleep(0.2)


def _is_ministack(process: int) -> bool:
    """Whether the process runs and is MiniStack."""
    if Path("/proc/self").exists():
        command = Path(f"/proc/{process}/cmdline").read_text()
    else:
        ps = ["ps", "-o", "command=", "-p", str(process)]
        command = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
    return str(EMULATOR) in command


def _answers() -> bool:
    with suppress(OSError):
        context = ssl.create_default_context(cafile=CERTIFICATE)
        url = f"https://localhost:{port()}/_ministack/health"
        with urllib.request.urlopen(url, timeout=60, context=context) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004
    return False


def _sam(*arguments: str) -> None:
    _run(sam.command(*arguments), sam.environment() | environment())


def _run(command: list[Any], environ: dict[str, str] | None = None) -> None:
    """Run a command; its output is shown only if it fails."""
    done = subprocess.run(
        command, cwd=sam.ROOT, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise StackError(f"{Path(command[0]).name} {command[1]} failed:\n{said[-4000:]}")


if __name__ == "__main__":
    main()
