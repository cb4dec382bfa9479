"""Run every client directly and through the proxy, in verify and passthrough mode and over TLS, and compare.

    python -m tests.clients.zoo [NAME ...]        # needs radosgw; clients from $CLIENTS_PYTHON's environment
    ZOO_ENDPOINTS=http://... python -m tests.clients.zoo ...  # on servers that run, with the keys of AWS's variables

Ends with 1 when something that works directly does not work through the proxy, or gives something else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from s3pool.model import Credentials
from tests.clients.python_clients import CLIENTS as PYTHON_CLIENTS
from tests.support.proxying import RunningProxy
from tests.support.rgw import RgwCluster, free_ports

HERE = Path(__file__).parent
PYTHON = os.path.abspath(os.environ.get("CLIENTS_PYTHON", sys.executable))
JS = Path(PYTHON).parents[1] / "js" / "clients.mjs"  # with its modules beside it
JAVA = Path(PYTHON).parents[1] / "java"  # the libraries
TIMEOUT_S = 240.0
START_LIMIT_S = 60.0
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
WAYS = ("direct", "verify", "passthrough", "tls")
NO_ROOTS = frozenset({"opendal"})  # which cannot be told of a certificate
Result = Mapping[str, object]


def environment(url: str, bucket: str, keys: Credentials, ca_file: str, directory: str) -> dict[str, str]:
    """Return what every client finds its endpoint by, and nothing else."""
    certificates = dict.fromkeys(
        ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), ca_file
    )
    names = ("PATH", "GOCACHE", "GOPATH", "GOFLAGS", "JAVA_HOME", "TMPDIR")
    return {
        **{name: os.environ[name] for name in names if name in os.environ},
        "PATH": f"{Path(PYTHON).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": directory,
        "ZOO_URL": url,
        "ZOO_BUCKET": bucket,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "RESTIC_PASSWORD": "zoo",
        **(certificates if ca_file else {}),
    }


def run_python(name: str) -> Callable[[Mapping[str, str], str], Result]:
    """Return what runs one of the Python clients."""

    def run(env: Mapping[str, str], directory: str) -> Result:
        return last_json([PYTHON, str(HERE / "python_clients.py"), name], env, directory)

    return run


def program(name: str, *words: str) -> Callable[[Mapping[str, str], str], Result]:
    """Return what runs another program that prints its result."""

    def run(env: Mapping[str, str], directory: str) -> Result:
        found = shutil.which(name, path=env["PATH"])
        return last_json([found, *words], env, directory) if found else {"not installed": name}

    return run


def last_json(command: list[str], env: Mapping[str, str], directory: str) -> Result:
    """Run a program that prints its result as its last line."""
    done = run_quietly(command, env, directory)
    try:
        found: Result = json.loads(done.stdout.decode().strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"run": f"failed with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}"}
    return found


def run_quietly(command: list[str], env: Mapping[str, str], directory: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program; one that takes too long has failed."""
    try:
        return subprocess.run(command, env=env, cwd=directory, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, b"", b"took too long")


def run_registry(env: Mapping[str, str], directory: str) -> Result:
    """Run a container registry that keeps its layers in the bucket, and push and pull an image."""
    found = shutil.which("registry", path=env["PATH"])
    if found is None:
        return {"not installed": "registry"}
    port = free_ports(1)[0]
    store = {
        "region": "us-east-1",
        "bucket": env["ZOO_BUCKET"],
        "regionendpoint": env["ZOO_URL"],
        "forcepathstyle": True,
    }
    config = {
        "version": 0.1,
        "storage": {"s3": store, "redirect": {"disable": True}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    Path(directory, "config.yml").write_text(json.dumps(config))
    log = Path(directory, "log")
    with log.open("wb") as out:
        process = subprocess.Popen([found, "serve", "config.yml"], env=env, cwd=directory, stdout=out, stderr=out)
    try:
        return push_and_pull(port)
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)
        print(log.read_text()[-300:], file=sys.stderr)


def push_and_pull(port: int) -> Result:
    """Push and pull an image as a container engine does: layers in pieces, a manifest, a mount, and its deletion."""
    found: dict[str, object] = {}

    def step(name: str, method: str, target: str, want: int, body: bytes = b"", **headers: str) -> tuple[str, bytes]:
        named = {word.replace("_", "-"): value for word, value in headers.items()}
        status, location, answer = ask_registry(port, method, target, body, named)
        found[name] = status if status == want else f"failed: {status} {answer[:100]!r}"
        return location, answer

    layers = {"config": bytes(range(256)) * 4096, "layer": bytes(range(255, -1, -1)) * 4096 * 40}
    digests = {name: f"sha256:{hashlib.sha256(layer).hexdigest()}" for name, layer in layers.items()}
    for name, layer in layers.items():
        half = len(layer) // 2
        place, _ = step(f"{name}: begin", "POST", "/v2/zoo/blobs/uploads/", 202)
        for part, begin in enumerate((0, half)):
            piece = layer[begin : begin + half]
            span = f"{begin}-{begin + half - 1}"
            place, _ = step(f"{name}: piece {part}", "PATCH", place, 202, piece, Content_Range=span)
        step(f"{name}: end", "PUT", f"{place}&digest={digests[name]}", 201)
        _, answer = step(f"{name}: read", "GET", f"/v2/zoo/blobs/{digests[name]}", 200)
        found[f"{name}: same bytes"] = "done" if answer == layer else "failed: other bytes"
    manifest = image_manifest(digests, layers)
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    step("manifest", "PUT", "/v2/zoo/manifests/latest", 201, manifest, Content_Type=OCI_IMAGE)
    _, answer = step("manifest: read", "GET", "/v2/zoo/manifests/latest", 200, Accept=OCI_IMAGE)
    found["manifest: same bytes"] = "done" if answer == manifest else "failed: other bytes"
    step("tags", "GET", "/v2/zoo/tags/list", 200)
    step("mount", "POST", f"/v2/other/blobs/uploads/?mount={digests['layer']}&from=zoo", 201)
    step("mounted: look", "HEAD", f"/v2/other/blobs/{digests['layer']}", 200)
    step("manifest: delete", "DELETE", f"/v2/zoo/manifests/{digest}", 202)
    step("layer: delete", "DELETE", f"/v2/zoo/blobs/{digests['layer']}", 202)
    step("layer: gone", "GET", f"/v2/zoo/blobs/{digests['layer']}", 404)
    return found


def image_manifest(digests: Mapping[str, str], layers: Mapping[str, bytes]) -> bytes:
    """Return the manifest of an image of one layer."""

    def part(name: str, kind: str) -> dict[str, object]:
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": digests[name], "size": len(layers[name])}

    parts = {"config": part("config", "config.v1+json"), "layers": [part("layer", "layer.v1.tar")]}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_IMAGE, **parts}).encode()


def ask_registry(port: int, method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, bytes]:
    """Return status, Location and body of an answer; wait for a registry that is just starting."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            connection.request(method, target, body, {"Content-Type": "application/octet-stream", **headers})
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                return 599, "", b""
            time.sleep(0.1)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers.get("Location", "").removeprefix(f"http://127.0.0.1:{port}"), content


def commands(*lines: tuple[str, ...]) -> Callable[[Mapping[str, str], str], Result]:
    """Return what runs command lines one after another; each tells by its exit code."""

    def run(env: Mapping[str, str], directory: str) -> Result:
        if shutil.which(lines[0][0], path=env["PATH"]) is None:
            return {"not installed": lines[0][0]}
        Path(directory, "large").write_bytes(bytes(range(256)) * 4096 * 20)
        places = {"BUCKET": env["ZOO_BUCKET"], "URL": env["ZOO_URL"], "CA": env.get("AWS_CA_BUNDLE", "")}
        found: dict[str, object] = {}
        for line in lines:
            words = [word.format(**places) for word in line]
            done = run_quietly([word for word in words if word], env, directory)
            step = " ".join(word for word in line[1:] if "{" not in word and not word.startswith("-"))
            found[step] = f"failed: {done.returncode}" if done.returncode else "done"
            if done.returncode:
                print(f"{' '.join(words)}: {done.stderr.decode(errors='replace')[-300:]}", file=sys.stderr)
        back = Path(directory, "back")
        is_same = back.exists() and back.read_bytes() == Path(directory, "large").read_bytes()
        found["same bytes"] = "done" if is_same else "failed: other bytes, or none"
        return found

    return run


JAVA_WORDS = ("-cp", f"{JAVA}/*", str(HERE / "java" / "Clients.java"))
RCLONE = ":s3,provider=Other,env_auth=true,endpoint='{URL}',force_path_style=true:{BUCKET}"
S5CMD = ("s5cmd", "--endpoint-url", "{URL}")
RESTIC = ("restic", "-r", "s3:{URL}/{BUCKET}/restic", "--no-cache")
ALL: dict[str, Callable[[Mapping[str, str], str], Result]] = {
    **{name: run_python(name) for name in PYTHON_CLIENTS},
    "aws-sdk-js v3": program("node", str(JS), "aws"),
    "minio-js": program("node", str(JS), "minio"),
    "aws-sdk-go-v2": program("aws-sdk-go-v2"),
    "aws-sdk-java v2": program("java" if JAVA.is_dir() else "java with its libraries", *JAVA_WORDS),
    "registry": run_registry,
    "aws": commands(
        ("aws", "s3", "cp", "large", "s3://{BUCKET}/cli/large", "--quiet"),
        ("aws", "s3", "ls", "s3://{BUCKET}/cli/"),
        ("aws", "s3api", "head-object", "--bucket", "{BUCKET}", "--key", "cli/large"),
        ("aws", "s3", "cp", "s3://{BUCKET}/cli/large", "back", "--quiet"),
        ("aws", "s3", "rm", "s3://{BUCKET}/cli", "--recursive", "--quiet"),
    ),
    "rclone": commands(
        ("rclone", "copyto", "large", RCLONE + "/rclone/large", "--retries", "1"),
        ("rclone", "check", "large", RCLONE + "/rclone", "--retries", "1"),
        ("rclone", "copyto", RCLONE + "/rclone/large", "back", "--retries", "1"),
        ("rclone", "delete", RCLONE + "/rclone", "--retries", "1"),
    ),
    "restic": commands(
        (*RESTIC, "init", "--cacert={CA}"),
        (*RESTIC, "backup", "large", "--quiet", "--cacert={CA}"),
        (*RESTIC, "check", "--quiet", "--cacert={CA}"),
        (*RESTIC, "restore", "latest", "--target", "restored", "--cacert={CA}"),
        ("cp", "restored/large", "back"),
    ),
    "s5cmd": commands(
        (*S5CMD, "cp", "large", "s3://{BUCKET}/s5/large"),
        (*S5CMD, "cp", "s3://{BUCKET}/s5/large", "back"),
        (*S5CMD, "rm", "s3://{BUCKET}/s5/*"),
    ),
}


@contextmanager
def store() -> Iterator[tuple[Sequence[str], Credentials]]:
    """Give the endpoints and the key pair of the servers that were named, or of a cluster."""
    named, attached = os.environ.get("ZOO_ENDPOINTS"), os.environ.get("S3POOL_TEST_RGW_DIR")
    if named:
        yield named.split(","), Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        return
    with RgwCluster.attach(attached) if attached else RgwCluster.create(2) as cluster:
        yield cluster.endpoints, Credentials(cluster.access_key, cluster.secret_key)


@contextmanager
def ways(endpoints: Sequence[str], keys: Credentials, certificate: str) -> Iterator[dict[str, tuple[str, str]]]:
    """Give the endpoint and the certificate of each way to the store."""
    with ExitStack() as stack:

        def proxy(**settings: object) -> str:
            started = RunningProxy(endpoints, credentials=keys, read_timeout_s=60.0, **settings)
            return stack.enter_context(started).url

        yield {
            "direct": (endpoints[0], ""),
            "verify": (proxy(), ""),
            "passthrough": (proxy(auth="passthrough"), ""),
            "tls": (proxy(tls_cert=certificate, tls_key=certificate), certificate),
        }


def make_certificate(directory: str) -> str:
    """Make a certificate for 127.0.0.1, with its key in the same file."""
    path = str(Path(directory, "both.pem"))
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{path}.key", "-out", path]
    subprocess.run(["openssl", *words.split(), *extra], check=True, capture_output=True)
    Path(path).write_text(Path(path).read_text() + Path(f"{path}.key").read_text())
    return path


def has_failed(result: object) -> bool:
    """Return whether a step failed."""
    return str(result).startswith("failed")


def compare(found: Mapping[str, Result]) -> tuple[list[str], list[str]]:
    """Return what differs to the client's harm, and what works through the proxy alone."""
    worse, better = [], []
    for way in WAYS[1:]:
        for step, direct in found["direct"].items():
            through = found[way].get(step, "failed: missing")
            if through == direct or (has_failed(direct) and has_failed(through)):  # in whatever words
                continue
            line = f"{way}: {step}: {direct} directly, {through} through the proxy"
            (better if has_failed(direct) else worse).append(line)
    return worse, better


def main(names: list[str]) -> int:
    """Run the clients, print a table, and tell whether the proxy broke any."""
    is_worse = False
    with ExitStack() as stack:
        endpoints, keys = stack.enter_context(store())
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        places = stack.enter_context(ways(endpoints, keys, make_certificate(directory)))
        print(f"{'client':<20}{'steps':>6}  {'through the proxy':<40}")
        for name in names or list(ALL):
            found = run_everywhere(name, places, keys)
            if "not installed" in found["direct"]:
                print(f"{name:<20}{'-':>6}  not installed", flush=True)
                continue
            worse, better = compare(found)
            is_worse = is_worse or bool(worse)
            verdict = "DIFFERENT" if worse else "works, and not directly" if better else "the same"
            alike = (step for step in found["direct"] if all(has_failed(found[way].get(step)) for way in WAYS))
            nowhere = [f"fails on every way: {step}: {found['direct'][step]}" for step in alike]
            line = f"{name:<20}{len(found['direct']):>6}  {verdict}"
            print(line, *worse, *better, *nowhere, sep="\n    ", flush=True)
    return int(is_worse)


def run_everywhere(name: str, places: Mapping[str, tuple[str, str]], keys: Credentials) -> dict[str, Result]:
    """Run one client on each way, each time in a bucket and a directory of its own."""
    found: dict[str, Result] = {}
    for way, (url, ca_file) in places.items():
        if ca_file and name in NO_ROOTS:
            found[way] = found["direct"]
            continue
        bucket = f"zoo-{way}-{os.urandom(4).hex()}"
        with tempfile.TemporaryDirectory() as directory, bucket_of(places["direct"][0], bucket, keys):
            found[way] = ALL[name](environment(url, bucket, keys, ca_file, directory), directory)
        found[way] = json.loads(json.dumps(found[way]).replace(bucket, "BUCKET").replace(url, "URL"))
        if "not installed" in found[way]:
            return {"direct": found[way]}
    return found


@contextmanager
def bucket_of(url: str, bucket: str, keys: Credentials) -> Iterator[None]:
    """Make a bucket, and remove it with all that is in it."""
    program = [sys.executable, "-m", "s3pool", "--endpoints", url, "--quiet"]
    env = {**os.environ, "AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
    subprocess.run([*program, "mb", f"s3/{bucket}"], env=env, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run([*program, "rb", "--force", "--yes", f"s3/{bucket}"], env=env, check=False, capture_output=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
