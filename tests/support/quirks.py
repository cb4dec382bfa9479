"""What servers do otherwise than S3, each with the test that provokes it; the manual has it from here."""

from __future__ import annotations

import re
from typing import NamedTuple


class Quirk(NamedTuple):
    """One thing that servers do otherwise: who, what, and what s3pool does about it; its test is named last."""

    servers: str
    does: str
    answer: str
    test: str


# Who | does what | what s3pool does about it | its test, below tests/cli.
_TABLE = """
SeaweedFS 4.44 | start-after that names a directory exactly leaves out what is in it | its listings go on by tokens |
  test_listing_by_ranges.py::test_no_key_is_lost_where_a_cut_skips_a_directory
SeaweedFS, versitygw, other servers on directories | list as a walk goes: a/x before a-b | noticed on the pages;
  tokens are followed, no key range is listed alone | test_dialects.py::test_tree_order_loses_nothing
SeaweedFS 4.44 | the ETag of an upload in parts is none of its parts' MD5s | the object's size is compared, and each
  part by its signed SHA-256 | test_dialects.py::test_an_upload_with_an_etag_of_its_own_is_proved
MinIO --no-compat | ETags that look like MD5s and are none | what was stored is read back until that is certain;
  downloads trust a told CRC, or need --no-verify | test_dialects.py::test_a_random_etag_is_no_failure_of_an_upload
MinIO | ListMultipartUploads tells what the asked process began, and takes a prefix for a key | all nodes are asked,
  the keys found are asked for one by one, and filtered here |
  test_dialects.py::test_unfinished_uploads_of_all_nodes_are_found
MinIO | an object x hides x/y from every listing, also from one of x/ | rb --force, rm -r, mv -r and sync --delete
  list again as long as something went; cp -r cannot see such keys |
  test_dialects.py::test_what_a_deletion_bares_goes_too
MinIO | refuses to list a prefix with an empty or a dot component (400 XMinioInvalidObjectName) | no key there has
  any: sync --delete of a range takes that for an empty list |
  test_plans.py::test_ranges_are_synced_where_no_unusual_key_can_be
MinIO | walks all drives for every listing that no token leads on | it is listed by one request after another, also
  with --jobs | ../unit/s3/test_scheduler.py::test_minio_is_followed_by_one_chain_of_tokens
MinIO | answers 503 SlowDownWrite to a name of more than 255 bytes between slashes | no second attempt; the message
  tells the limit | test_dialects.py::test_a_name_that_no_disk_holds_ends_at_once
MinIO | answers /minio/health/live without a quorum | ping asks /minio/health/cluster as well |
  test_dialects.py::test_ping_tells_of_a_lost_quorum
MinIO | keeps the locks of a node that died for 1 to 2 minutes, and lets writes of the same keys wait | such a write
  waits at its second node, up to 130 s, and is sent to no third; others go on |
  test_dialects.py::test_a_write_waits_for_the_locks_of_a_node_that_died
versitygw 1.8 | a page of versions names its delete markers apart, and a version has the time at which it was replaced |
  undo leaves a key alone whose newest version does not come first, and --at ends with exit code 6 there; others they
  may take for newer than they are |
  test_undo.py::test_a_key_stays_whose_newest_version_is_not_listed_first
some gateways | refuse x-amz-checksum-mode, x-amz-copy-if-match, or If-Match with DELETE (400, 405, 501) | sent once,
  and then left out | test_dialects.py::test_a_refused_header_is_not_sent_again
some gateways | refuse If-None-Match with PUT | -n fails and says why: without it nothing keeps an object that comes
  meanwhile | test_dialects.py::test_no_clobber_fails_honestly_where_it_cannot_be_kept
some gateways | know no DeleteObjects (400, 405, 501) | keys are deleted one by one |
  test_dialects.py::test_a_server_without_batch_delete_is_served_one_by_one
Ceph RGW 16, some gateways | keep no checksums: CreateMultipartUpload does not repeat x-amz-checksum-algorithm, or
  refuses it | parts go without a CRC64NVME from then on, and downloads are compared with the MD5s of the parts |
  test_upload_checksums.py::test_parts_keep_a_crc_where_the_server_does
AWS, and others with Object Lock | want a Content-MD5 or a checksum with what goes into a locked bucket | sent after
  the first refusal, and from then on | test_dialects.py::test_a_locked_bucket_gets_its_digests
gofakes3 (rclone serve s3) | a list of uploads has no IsTruncated | it is whole, unless it names a next key |
  test_dialects.py::test_a_list_of_uploads_without_istruncated_is_whole
"""
QUIRKS = tuple(
    Quirk(*(" ".join(field.split()) for field in row.split("|"))) for row in re.split(r"\n(?=\S)", _TABLE.strip())
)
