"""What real servers do otherwise than the tests want, each with the exchange that shows it.

A test that is named here is expected to fail on that server, and fails the run when it passes, unless the fault is
one of now and then.
The table in the manual is written of this, of quirks.py, and of what the suites saw.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.support.quirks import QUIRKS

SEEN = Path(__file__).with_name("works_where.json")  # written by make live SERVER=...
MANUAL = Path(__file__).resolve().parents[2] / "man" / "s3pool.1.inc"
BEGIN, END = '.\\" begin: what works where (make man)\n', '.\\" end: what works where\n'
# The rows of the manual's table, by the files of the contract suite.
ROWS = {
    "test_buckets": "buckets, presigned URLs",
    "test_objects": "objects, ranges, tags",
    "test_copies": "copies inside S3",
    "test_multipart": "uploads in parts",
    "test_listing": "listings",
    "test_keys": "all keys that S3 allows",
    "test_versions": "versions",
}
SERVERS = {
    "rgw": "Ceph RGW 16.2",
    "minio": "MinIO 2026-02",
    "versitygw": "versitygw 1.8",
    "seaweedfs": "SeaweedFS 4.53",
    "garage": "Garage 2.5",
}
NO_TAGS = "PutObjectTagging with a value of other letters than S3's: 400 InvalidTag"
PATHS = "a key is a path: //, /., /.. and a name of more than 255 bytes are refused or folded (PutObject a//b: {})"
NO_EXPIRES = "Expires or x-amz-website-redirect-location is not kept (PutObject, and HeadObject without it)"
NO_V2 = "the old signature is refused (a URL of AWSAccessKeyId, Signature, Expires: 400 InvalidRequest)"
NO_LIFECYCLE = "there are no lifecycle rules (GetBucketLifecycleConfiguration: 501 NotImplemented)"
NOW_AND_THEN = "now and then"  # a fault that says so lets its tests pass as well
NO_TENANTS = (
    "a bucket has no second name with a tenant (CopyObject to :bucket: 400 InvalidBucketName, 404 NoSuchBucket)"
)
TENANTS = (
    "test_moves.py::test_trees_inside_each_other_are_refused[:-flags0]",
    "test_moves.py::test_trees_inside_each_other_are_refused[:-flags1]",
)
OWN_NAMES = ("flags0-7", "flags1-11534336", "flags2-7", "flags3-17825792")
FROZEN = "test_frozen_gateway.py::test_a_gateway_that_freezes_costs_seconds"
FAULTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "rgw": {"Complete with parts in a wrong order sorts them, where S3 answers 400 InvalidPartOrder": ()},
    "minio": {
        PATHS.format("400 XMinioInvalidObjectName"): (
            "test_buckets.py::test_presigned_url_opens_an_object[a b+c%2F;\\xe9/../x//y?&=#]",
            "test_keys.py::test_prefix_is_taken_literally[a//]",
            "test_keys.py::test_prefix_is_taken_literally[../]",
            "test_keys.py::test_extreme_key_comes_back[key0]",
            "test_keys.py::test_extreme_key_comes_back[key2]",
            "test_keys.py::test_extreme_key_comes_back[/]",
            "test_keys.py::test_extreme_key_comes_back[//]",
            "test_keys.py::test_extreme_key_comes_back[///a]",
            "test_keys.py::test_folded_key_does_not_exist",
            "test_client_matrix.py::test_odd_keys",
            "test_keys.py::test_groups_are_listed_exactly",
        ),
        "an object a hides a/b (ListObjectsV2 after PutObject a and a/b names a alone)": (
            "test_keys.py::test_listing_is_in_byte_order",
        ),
        NO_EXPIRES: ("test_stored_headers.py::test_copies_on_rgw_keep_everything",),
        "DELETE of what a delete marker hides adds no second marker": (
            "test_moves.py::test_versions_are_hidden_not_destroyed",
        ),
        "PutObject with x-amz-write-offset-bytes: 400 BadRequest": (
            "test_ignored_conditions.py::test_what_cannot_be_looked_at_is_refused[x-amz-write-offset-bytes]",
        ),
        NO_TENANTS: TENANTS,
        "ListMultipartUploads of one node names now and then what another one has ended": (
            "test_nothing_lost.py::test_uploads_survive_kill_9",
        ),
        "a node that is stopped with its port open holds up the others (SIGSTOP of one of four: GetObject "
        "of two others 30.1 s again and again, PutObject 15.4 s, before 0.02 s)": (
            FROZEN,
            "test_library_readers.py::test_readers_do_not_feel_gateways_that_are_killed_and_stopped",
        ),
        NO_TAGS: ("test_objects.py::test_tags_are_replaced",),
    },
    "versitygw": {
        PATHS.format("is stored as a/b"): (
            "test_keys.py::test_extreme_key_comes_back[key0]",
            "test_keys.py::test_extreme_key_comes_back[key2]",
            "test_keys.py::test_extreme_key_comes_back[/]",
            "test_keys.py::test_extreme_key_comes_back[//]",
            "test_keys.py::test_extreme_key_comes_back[///a]",
            "test_keys.py::test_folded_key_does_not_exist",
            "test_client_matrix.py::test_odd_keys",
            "test_keys.py::test_groups_are_listed_exactly",
        ),
        "a and a/b exclude each other (PutObject a/b after a: 409 ObjectParentIsFile)": (
            "test_keys.py::test_listing_is_in_byte_order",
        ),
        "control characters come back as U+FFFD from listings, though encoding-type=url was asked for": (
            "test_keys.py::test_every_character_is_legal_in_a_key",
        ),
        "an unknown access key is 404 XAdminUserNotFound, which s3pool takes for a denial": (
            "test_buckets.py::test_unknown_key_is_denied",
        ),
        "ListObjectVersions with max-keys=1 gives the same version again behind its own markers, for ever": (
            "test_versions.py::test_pages_of_versions_are_the_listing[1]",
        ),
        "ListObjectVersions names the delete markers of a page behind all its versions": (
            "test_versions.py::test_versions_are_listed_newest_first",
        ),
        NO_V2: (
            "test_client_matrix.py::test_presigned_urls[https-passthrough-s3]",
            "test_client_matrix.py::test_presigned_urls[http-passthrough-s3]",
            "test_client_matrix.py::test_aws_cli[https-passthrough]",
            "test_client_matrix.py::test_aws_cli[http-passthrough]",
            "test_client_matrix.py::test_s3cmd[https-passthrough]",
            "test_client_matrix.py::test_s3cmd[http-passthrough]",
        ),
        "a signed header without a value is left out of the signature (PUT with Content-Type: and a presigned URL that "
        "covers it: 403 SignatureDoesNotMatch)": (
            "test_client_matrix.py::test_presigned_urls[http-verify-s3v4]",
            "test_client_matrix.py::test_presigned_urls[https-verify-s3v4]",
            "test_client_matrix.py::test_minio_py[http-verify]",
            "test_client_matrix.py::test_minio_py[https-verify]",
        ),
        "a copy whose source condition does not hold is 304, where S3 answers 412": (
            "test_ignored_conditions.py::test_copy_is_held_to_the_conditions_on_its_source",
        ),
        "x-amz-if-match-size is heeded": (
            "test_ignored_conditions.py::test_what_cannot_be_looked_at_is_refused[x-amz-if-match-size]",
        ),
        "a version's LastModified is the time at which it was replaced (ListObjectVersions after a PutObject)": (
            "test_undo.py::test_versions_of_a_real_cluster",
        ),
        "a gateway that is stopped keeps its locks, 256 for all keys of a bucket (flock of .vgwlocks; after SIGSTOP "
        "of one of three the others do not answer PutObject of every twentieth key)": (f"{FROZEN}[many up]",),
        "the same on a day with a gateway that is stopped, now and then (93 s instead of 35)": (
            "test_a_day.py::test_a_day_on_which_all_happens",
        ),
        NO_LIFECYCLE: ("test_settings.py::test_rule_that_a_server_makes_another_of_is_undone",),
        NO_TENANTS: (*TENANTS, "test_moves.py::test_versions_are_hidden_not_destroyed"),
        NO_TAGS: ("test_objects.py::test_tags_are_replaced",),
    },
    "seaweedfs": {
        PATHS.format("is stored as a/b"): (
            "test_buckets.py::test_presigned_url_opens_an_object[a b+c%2F;\\xe9/../x//y?&=#]",
            "test_keys.py::test_prefix_is_taken_literally[a//]",
            "test_keys.py::test_extreme_key_comes_back[key0]",
            "test_keys.py::test_extreme_key_comes_back[key2]",
            "test_keys.py::test_extreme_key_comes_back[/]",
            "test_keys.py::test_extreme_key_comes_back[//]",
            "test_keys.py::test_extreme_key_comes_back[///a]",
            "test_keys.py::test_folded_key_does_not_exist",
            "test_client_matrix.py::test_odd_keys",
            "test_keys.py::test_groups_are_listed_exactly",
        ),
        "a backslash in a key becomes a slash": (),  # such keys are left out of the tests
        "PutObject into a bucket that is not there makes the bucket": (
            "test_buckets.py::test_put_into_a_missing_bucket_is_not_found",
        ),
        "PutBucketLifecycleConfiguration forgets rules now and then: none of one is read back": (
            "test_settings.py::test_what_is_set_is_what_boto3_reads[ilm]",
            "test_settings.py::test_rule_that_a_server_makes_another_of_is_undone",
        ),
        NO_TENANTS: (
            *TENANTS,
            "test_moves.py::test_object_that_is_moved_onto_itself_stays[:-flags0-7]",
            "test_moves.py::test_versions_are_hidden_not_destroyed",
        ),
        NO_EXPIRES: ("test_stored_headers.py::test_copies_on_rgw_keep_everything",),
        NO_TAGS: ("test_objects.py::test_tags_are_replaced",),
    },
    "garage": {
        "leading slashes of a key are left out, and a key of nothing else is the bucket (PutObject //a stores a)": (
            "test_keys.py::test_extreme_key_comes_back[/]",
            "test_keys.py::test_extreme_key_comes_back[//]",
            "test_keys.py::test_extreme_key_comes_back[///a]",
            "test_keys.py::test_folded_key_does_not_exist",
            "test_keys.py::test_groups_are_listed_exactly",
        ),
        "PutObject with a key of more than some 500 bytes: 503 ServiceUnavailable": (
            "test_keys.py::test_extreme_key_comes_back[key2]",
            "test_keys.py::test_too_long_key_is_refused",
        ),
        "a wrong key or secret is AccessDenied": (
            "test_buckets.py::test_wrong_secret_is_denied",
            "test_buckets.py::test_unknown_key_is_denied",
        ),
        "there are no tags (PutObjectTagging, GetObjectTagging: 501 NotImplemented)": (
            "test_copies.py::test_copy_keeps_attributes",
            "test_objects.py::test_tags_are_kept",
            "test_objects.py::test_tags_are_replaced",
            "test_settings.py::test_what_is_set_is_what_boto3_reads[tag]",
            "test_settings.py::test_json_and_dry_run",
            "test_stored_headers.py::test_copies_on_rgw_keep_everything",
        ),
        "there are no locks, bucket policies, default encryption (PutObjectRetention, GetObjectLockConfiguration, "
        "GetBucketPolicy, GetBucketEncryption: 501 NotImplemented)": (
            "test_deletion_errors.py::test_locked_versions_are_told_and_stay",
            "test_settings.py::test_what_is_set_is_what_boto3_reads[lock]",
            "test_settings.py::test_what_is_set_is_what_boto3_reads[policy]",
            "test_settings.py::test_what_is_set_is_what_boto3_reads[encrypt]",
        ),
        "a node that is stopped with its port open holds up another (SIGSTOP of one of three: GetObject of one of the "
        "two others had no answer in 160 s)": (
            FROZEN,
            "test_library_readers.py::test_readers_do_not_feel_gateways_that_are_killed_and_stopped",
        ),
        NO_TENANTS: (
            *TENANTS,
            *(f"test_moves.py::test_object_that_is_moved_onto_itself_stays[:-{case}]" for case in OWN_NAMES),
            "test_moves.py::test_versions_are_hidden_not_destroyed",
        ),
        "there are no versions (PutBucketVersioning, ListObjectVersions: 501 NotImplemented)": (
            "test_versions.py::test_versioning_is_switched",
            "test_versions.py::test_every_put_is_a_version",
            "test_versions.py::test_delete_hides_a_key",
            "test_versions.py::test_hidden_key_is_not_found",
            "test_versions.py::test_versions_are_listed_newest_first",
            "test_versions.py::test_pages_of_versions_are_the_listing",
            "test_versions.py::test_one_version_is_deleted_for_good",
            "test_versions.py::test_batch_delete_takes_versions",
            "test_versions.py::test_copy_takes_an_old_version",
            "test_settings.py::test_what_is_set_is_what_boto3_reads[version]",
            "test_undo.py::test_versions_of_a_real_cluster",
        ),
        "If-None-Match with PutObject is passed over (200 over an object that is there)": (
            "test_objects.py::test_no_clobber_refuses_an_existing_key",
        ),
        "a part of less than 5 MiB in the middle is taken (CompleteMultipartUpload: 200)": (
            "test_multipart.py::test_small_part_in_the_middle_is_refused",
        ),
    },
}


def plain_name(node_id: str) -> str:
    """Return the name of a test without its folder and its server."""
    return re.sub(r"\[rgw-?", "[", re.sub("^tests/[a-z]+/", "", node_id)).replace("[]", "")


def fault_of(server: str, node_id: str) -> str:
    """Return what a server does that a test does not want, "" where it should pass."""
    name = plain_name(node_id)
    names = {name, name.partition("[")[0]}  # one case, or all of a test
    return next((fault for fault, tests in FAULTS.get(server, {}).items() if names.intersection(tests)), "")


def record(server: str, outcomes: Iterable[tuple[str, str]]) -> None:
    """Keep what the contract suite saw on a server: by file, how many tests passed, and of how many."""
    seen = json.loads(SEEN.read_text()) if SEEN.exists() else {}
    rows = {row: [0, 0] for row in ROWS}
    for node_id, outcome in outcomes:
        row = rows[Path(node_id.partition("::")[0]).stem]
        row[0] += outcome == "passed"
        row[1] += 1
    seen[server] = rows
    SEEN.write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n")


def manual_lines() -> str:
    """Return the table and the lists of the manual, in roff."""
    seen = json.loads(SEEN.read_text())
    servers = [server for server in SERVERS if server in seen]
    heads = [SERVERS[server].split()[0].replace("Ceph", "RGW") for server in servers]
    lines = [".EX", f"{'':24}" + "".join(f"{head:>12}" for head in heads)]
    for row, label in ROWS.items():
        counts = [seen[server][row] for server in servers]
        cells = ["yes" if passed == count else f"{passed} of {count}" for passed, count in counts]
        lines.append(f"{label:24}" + "".join(f"{cell:>12}" for cell in cells))
    lines.append(".EE")
    for server in servers:
        if FAULTS[server]:
            lines += [".TP", f".B {SERVERS[server]}", *(f"{escape(fault)};" for fault in FAULTS[server])]
            lines[-1] = lines[-1].removesuffix(";") + "."
    lines += [".PP", "What s3pool does where a server goes a way of its own:"]
    for quirk in QUIRKS:
        lines += [".TP", f".B {escape(quirk.servers)}", escape(f"{quirk.does}: {quirk.answer}.")]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Write text for roff."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace(". ", ".\\& ")


def main() -> None:
    """Write the manual's table."""
    text = MANUAL.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    MANUAL.write_text(head + BEGIN + manual_lines() + END + tail)


if __name__ == "__main__":
    main()
