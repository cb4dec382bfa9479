"""Browsers' upload forms: what the policy allows is stored, anything else reaches no node."""

from __future__ import annotations

import base64
import os
import re

import pytest

from s3pool.model import Credentials
from tests.support.fake_s3 import FakeS3, Fault, NoETag, WebPage
from tests.support.proxying import GUEST_KEY, RunningProxy, arrived, last, parse_answer, stored
from tests.support.upload_form import (
    CONTENT,
    form_body,
    form_request,
    policy_text,
    post,
    signed_form,
    signed_form_v2,
)

KEY = {"key": "new"}
NEVER_EXPIRES = base64.b64encode(b'{"conditions": []}').decode()
FREE = [["starts-with", f"$x-amz-{name}", ""] for name in ("algorithm", "credential", "date")]


def test_signed_form_is_stored_as_an_object(fake: FakeS3, proxy: RunningProxy) -> None:
    """The bytes of the file, whatever looks like a boundary in them, and the fields as headers."""
    form = signed_form({**KEY, "acl": "private", "x-amz-meta-a": "b", "Content-Type": "image/png", "Expires": "0"})

    answer = post(proxy, form)

    assert (204, CONTENT) == (answer.status, stored(fake, "b", "new"))
    headers = last(fake).headers
    assert ("PutObject", "private", "b", "image/png", "0") == (
        last(fake).op,
        *(headers[name] for name in ("x-amz-acl", "x-amz-meta-a", "content-type", "expires")),
    )
    assert f"http://{proxy.host}/b/new" == answer.headers["location"]


@pytest.mark.parametrize("fault", [NoETag(), WebPage(), WebPage({"ETag": '"5f3c-264"'})])
def test_answer_that_is_no_storages_is_no_success(fake: FakeS3, proxy: RunningProxy, fault: Fault) -> None:
    """A page for people with status 200 stored nothing."""
    fake.fault(fault, op="PutObject", times=0)

    answer = post(proxy, signed_form(KEY))

    assert 502 == answer.status
    assert b"<Code>BadGateway</Code>" in answer.body


def test_form_signed_by_version_2_is_stored(fake: FakeS3, proxy: RunningProxy) -> None:
    """Many web applications still make these."""
    assert (204, CONTENT) == (post(proxy, signed_form_v2(KEY)).status, stored(fake, "b", "new"))


def test_name_of_the_file_becomes_part_of_the_key(fake: FakeS3, proxy: RunningProxy) -> None:
    """The form's maker does not know it."""
    form = signed_form({}, conditions=[["starts-with", "$key", "up/"]]) | {"key": "up/${filename}"}

    assert (204, CONTENT) == (post(proxy, form).status, stored(fake, "b", "up/a b.txt"))


def test_names_need_no_quotes(fake: FakeS3, proxy: RunningProxy) -> None:
    """RFC 7578 and 2183 want them around blanks alone, and .NET writes them like that."""
    body = form_body(signed_form(KEY)).replace(b'filename="a b.txt"', b"filename=a.txt; filename*=utf-8''a.txt")
    body = re.sub(rb'name="([^"]+)"', rb"name=\1", body)

    assert (204, CONTENT) == (parse_answer(proxy.talk(form_request(proxy, body))).status, stored(fake, "b", "new"))


@pytest.mark.parametrize(("wish", "status"), [("200", 200), ("201", 201), ("204", 204), ("404", 204)])
def test_status_is_the_one_that_was_asked_for(fake: FakeS3, proxy: RunningProxy, wish: str, status: int) -> None:
    """Old plug-ins of browsers need one or the other."""
    answer = post(proxy, signed_form({**KEY, "success_action_status": wish}))

    assert status == answer.status
    assert (status == 201) == (b"<Bucket>b</Bucket><Key>new</Key>" in answer.body)


def test_browser_is_sent_on(fake: FakeS3, proxy: RunningProxy) -> None:
    """To the page that the policy names, which learns what was stored."""
    form = signed_form({**KEY, "success_action_redirect": "https://shop.example/done?a=1"})

    answer = post(proxy, form)

    assert 303 == answer.status
    assert answer.headers["location"].startswith("https://shop.example/done?a=1&bucket=b&key=new&etag=%22")


def test_large_file_is_stored_whole(fake: FakeS3, proxy: RunningProxy) -> None:
    """It is larger than what stays in memory, and arrives in many pieces."""
    content = os.urandom(3 << 20)

    assert (204, content) == (post(proxy, signed_form(KEY), content).status, stored(fake, "b", "new"))


def test_form_goes_to_another_node(fake: FakeS3, proxy: RunningProxy) -> None:
    """Its file is kept until it is stored."""
    fake.nodes[0].kill()

    assert {204} == {post(proxy, signed_form({"key": f"new{number}"})).status for number in range(3)}


def test_connection_goes_on_behind_a_form(fake: FakeS3, proxy: RunningProxy) -> None:
    """Fields behind the file are read and mean nothing."""
    body = form_body(signed_form(KEY)).removesuffix(b"--\r\n")
    body += b'\r\nContent-Disposition: form-data; name="submit"\r\n\r\nSend\r\n' + form_body({}, None)

    answer = parse_answer(proxy.talk(form_request(proxy, body) + proxy.signed("GET", "/b/new", close=True)))

    assert (204, CONTENT) == (answer.status, parse_answer(answer.rest).body)


def test_form_of_a_client_with_the_pools_key() -> None:
    """Forms could not pass as they are: the node does not know the client's key."""
    own = {"access_key": GUEST_KEY.access_key, "secret_key": GUEST_KEY.secret_key, "backend": "pool"}
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, clients=[{**own, "buckets": ["b"]}]) as proxy:
        fake.store.add("b", "k", b"")
        fake.store.add("other", "k", b"")

        assert 204 == post(proxy, signed_form(KEY, key=GUEST_KEY)).status
        other = form_request(proxy, form_body(signed_form(KEY, key=GUEST_KEY)), target="/other")
        assert 403 == parse_answer(proxy.talk(other)).status


@pytest.mark.parametrize(
    "flipped", ["key", "policy", "x-amz-signature", "x-amz-credential", "x-amz-date", "x-amz-meta-a"]
)
def test_every_field_counts(fake: FakeS3, proxy: RunningProxy, flipped: str) -> None:
    """Each byte of each field that was signed is changed in turn."""
    form = signed_form({**KEY, "x-amz-meta-a": "value"})
    fake.forget()
    statuses = set()

    for at in range(0, len(form[flipped]), 1 if len(form[flipped]) < 80 else 23):
        changed = form[flipped][:at] + chr(ord(form[flipped][at]) ^ 1) + form[flipped][at + 1 :]
        statuses.add(post(proxy, {**form, flipped: changed}).status)

    assert statuses <= {400, 403}
    assert [] == arrived(fake)


@pytest.mark.parametrize(
    ("form", "content", "status", "code"),
    [
        (signed_form(KEY, expires_in_s=-1), CONTENT, 403, "AccessDenied"),
        (signed_form(KEY) | {"x-amz-meta-extra": "1"}, CONTENT, 403, "AccessDenied"),
        (signed_form(KEY) | {"x-amz-copy-source": "/b/there"}, CONTENT, 403, "AccessDenied"),
        (signed_form(KEY, conditions=[["content-length-range", 0, 5]]), CONTENT, 400, "EntityTooLarge"),
        (signed_form(KEY, conditions=[["content-length-range", 500, 900]]), CONTENT, 400, "EntityTooSmall"),
        (signed_form(KEY, conditions=[["content-length-range", 0]]), CONTENT, 400, "InvalidPolicyDocument"),
        (signed_form(KEY, conditions=[["content-length-range", -1, 0]]), CONTENT, 400, "InvalidPolicyDocument"),
        (signed_form(KEY, conditions=[{}]), CONTENT, 400, "InvalidPolicyDocument"),
        (signed_form(KEY, conditions=[["starts-with", "$x-amz-meta-b", "c"]]), CONTENT, 403, "AccessDenied"),
        (signed_form(KEY, conditions=[["matches", "$key", "new"]]), CONTENT, 400, "InvalidPolicyDocument"),
        (signed_form(KEY, policy=NEVER_EXPIRES), CONTENT, 400, "InvalidPolicyDocument"),
        (signed_form(KEY, policy="no base64"), CONTENT, 400, "InvalidPolicyDocument"),
        (signed_form(KEY, key=Credentials("nobody", "x")), CONTENT, 403, "InvalidAccessKeyId"),
        (signed_form(KEY, key=Credentials("AKIATEST", "x", "token")), CONTENT, 403, "InvalidAccessKeyId"),
        (signed_form({}), CONTENT, 400, "InvalidArgument"),
        (signed_form(KEY), None, 400, "InvalidArgument"),
        ({**KEY, "policy": policy_text([])}, CONTENT, 400, "InvalidArgument"),
        (KEY, CONTENT, 403, "AccessDenied"),
        (signed_form_v2(KEY) | {"signature": "AAAA"}, CONTENT, 403, "SignatureDoesNotMatch"),
        (signed_form_v2(KEY, key=Credentials("nobody", "x")), CONTENT, 403, "InvalidAccessKeyId"),
    ],
)
def test_form_that_is_not_allowed_reaches_no_node(
    fake: FakeS3, proxy: RunningProxy, form: dict[str, str], content: bytes | None, status: int, code: str
) -> None:
    """S3's own words for each reason."""
    fake.forget()

    answer = post(proxy, form, content)

    assert (status, code, []) == (answer.status, answer.code, arrived(fake))


def test_field_that_would_be_a_copy_is_left_out(fake: FakeS3, proxy: RunningProxy) -> None:
    """A form uploads; even a policy cannot make it read another object."""
    form = signed_form({**KEY, "x-amz-copy-source": "/b/there", "x-amz-write-offset-bytes": "3", "x-other": "1"})

    answer = post(proxy, form)

    assert (204, CONTENT) == (answer.status, stored(fake, "b", "new"))
    assert set() == {"x-amz-copy-source", "x-amz-write-offset-bytes", "x-other"} & set(last(fake).headers)


@pytest.mark.parametrize("cut", [1, 5, 20, 100])
def test_form_without_its_end_stores_nothing(fake: FakeS3, proxy: RunningProxy, cut: int) -> None:
    """Half of a file is no file."""
    body = form_body(signed_form(KEY))
    fake.forget()

    proxy.talk(form_request(proxy, body)[:-cut])
    if cut > 4:  # without the last line's end it is whole
        proxy.talk(form_request(proxy, body[:-cut]))

    assert stored(fake, "b", "new") is None


@pytest.mark.parametrize("content", [CONTENT, bytes(1 << 20)], ids=["small", "1 MiB"])
def test_form_is_sent_to_its_bucket_alone(fake: FakeS3, proxy: RunningProxy, content: bytes) -> None:
    """Amazon and MinIO answer 405 where a key stands in the path too; mc's own tests rely on it."""
    fake.forget()

    answer = parse_answer(proxy.talk(form_request(proxy, form_body(signed_form(KEY), content), target="/b/new")))

    assert (405, "MethodNotAllowed", []) == (answer.status, answer.code, arrived(fake))


def test_unsigned_form_passes_where_anonymous_may() -> None:
    """The node decides whether the bucket is open to all."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, anonymous="pass") as proxy:
        fake.store.add("b", "k", b"")

        assert (204, CONTENT) == (post(proxy, KEY).status, stored(fake, "b", "new"))
        assert "authorization" not in last(fake).headers


def test_passthrough_leaves_forms_alone() -> None:
    """There the node is the one to judge the policy."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, auth="passthrough") as proxy:
        fake.store.add("b", "k", b"")
        body = form_body(signed_form(KEY))

        proxy.talk(form_request(proxy, body))

        assert ("POST", len(body)) == (last(fake).method, int(last(fake).headers["content-length"]))


@pytest.mark.parametrize("pages_type", ["text/html", "image/svg+xml"])
def test_type_of_the_file_is_not_the_objects(fake: FakeS3, proxy: RunningProxy, pages_type: str) -> None:
    """The policy says nothing about it: a page of HTML at a trusted address runs its uploader's script."""
    body = form_body(signed_form(KEY)).replace(b"Content-Type: text/plain", f"Content-Type: {pages_type}".encode())

    answer = parse_answer(proxy.talk(form_request(proxy, body)))

    assert (204, None) == (answer.status, last(fake).headers.get("content-type"))


@pytest.mark.parametrize(
    ("condition", "status", "kind"),
    [
        (["starts-with", "$Content-Type", "text/"], 204, "text/plain"),
        (["starts-with", "$content-type", ""], 204, "text/plain"),
        (["eq", "$Content-Type", "image/png"], 403, None),
        (["starts-with", "$Content-Type", "image/"], 403, None),
    ],
)
def test_type_of_the_file_counts_where_the_policy_speaks_of_it(
    fake: FakeS3, proxy: RunningProxy, condition: list[str], status: int, kind: str | None
) -> None:
    """Browsers know what they send; whether that is welcome is the policy's matter."""
    fake.forget()

    answer = post(proxy, signed_form(KEY, conditions=[condition]))

    assert status == answer.status
    assert [kind] * (status == 204) == [request.headers["content-type"] for request in fake.requests if request.key]


@pytest.mark.parametrize(
    ("kind", "status"),
    [("image/png,text/html", 403), ("image/png , TEXT/html", 403), ("image/png,", 403), ("image/png, image/gif", 204)],
)
@pytest.mark.parametrize("is_field", [True, False])
def test_each_type_of_a_list_must_begin_as_the_policy_says(
    fake: FakeS3, proxy: RunningProxy, kind: str, status: int, *, is_field: bool
) -> None:
    """Amazon reads a list so, and browsers take the last of it: a picture by its first word is a page by its last."""
    fake.forget()
    form = signed_form(KEY, conditions=[["starts-with", "$Content-Type", "image/"]])
    body = form_body(form | {"Content-Type": kind} if is_field else form)

    answer = parse_answer(proxy.talk(form_request(proxy, body.replace(b"text/plain", kind.encode()))))

    assert (status, status == 204) == (answer.status, stored(fake, "b", "new") is not None)


@pytest.mark.parametrize("type_", ["text/html\x00", "text/plain\x0b;a", "text/plain\x7f", "a\nb", "a\rb: c"])
def test_control_characters_in_the_type_are_refused(fake: FakeS3, proxy: RunningProxy, type_: str) -> None:
    """It would become a header line."""
    fake.forget()
    form = form_body(signed_form(KEY, conditions=[["starts-with", "$Content-Type", ""]]))

    answer = parse_answer(proxy.talk(form_request(proxy, form.replace(b"text/plain", type_.encode()))))

    assert (400, []) == (answer.status, arrived(fake))


@pytest.mark.parametrize("name", ["a\x00b", "a\x1bb", "a\tb", "a\x7fb"])
def test_control_characters_in_the_files_name_are_refused(fake: FakeS3, proxy: RunningProxy, name: str) -> None:
    """It becomes a part of the key."""
    fake.forget()
    form = signed_form({}, conditions=[["starts-with", "$key", ""]]) | {"key": "${filename}"}

    answer = parse_answer(proxy.talk(form_request(proxy, form_body(form, name=name))))

    assert (400, []) == (answer.status, arrived(fake))


FIELDS = [
    *("acl", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type"),
    *("Expires", "success_action_redirect", "success_action_status", "redirect", "tagging", "x-amz-acl"),
    *("x-amz-checksum-crc32", "x-amz-grant-read", "x-amz-meta-a", "x-amz-object-lock-mode"),
    *("x-amz-server-side-encryption", "x-amz-storage-class", "x-amz-tagging", "x-amz-website-redirect-location"),
]


@pytest.mark.parametrize("field", FIELDS)
def test_policy_binds_every_field(fake: FakeS3, proxy: RunningProxy, field: str) -> None:
    """A field that the policy does not speak of, or not so, reaches no node."""
    fake.forget()
    allowed = signed_form({**KEY, field: "a"})

    extra = post(proxy, signed_form(KEY) | {field: "a"})
    other = post(proxy, allowed | {field: "b"})

    assert [(403, "AccessDenied")] * 2 == [(extra.status, extra.code), (other.status, other.code)]
    assert [] == arrived(fake)


@pytest.mark.parametrize(
    "fields",
    [
        {"acl": "private", "x-amz-acl": "public-read"},
        {"tagging": "private", "x-amz-tagging": "public-read"},
        {"x-amz-website-redirect-location": "javascript:alert(1)"},
        {"x-amz-meta-a": "b\r\nx-amz-copy-source: /b/there"},
    ],
)
def test_fields_make_one_header_of_one_reading(fake: FakeS3, proxy: RunningProxy, fields: dict[str, str]) -> None:
    """Of two lines with one name a node takes either; a value makes no second line, and a redirect no script."""
    fake.forget()

    assert (400, []) == (post(proxy, signed_form({**KEY, **fields})).status, arrived(fake))


@pytest.mark.parametrize("key", ["up/../k", "up/..", "up/./../../other/k", "up/${filename}"])
def test_key_of_a_signed_form_goes_no_way_that_dots_show(fake: FakeS3, proxy: RunningProxy, key: str) -> None:
    """A server that keeps objects in files stores up/../k as k, which the policy does not allow."""
    form = signed_form({"key": key}, policy=policy_text([{"bucket": "b"}, ["starts-with", "$key", "up/"], *FREE]))

    answer = parse_answer(proxy.talk(form_request(proxy, form_body(form, name=".."))))

    assert (400, []) == (answer.status, arrived(fake))
