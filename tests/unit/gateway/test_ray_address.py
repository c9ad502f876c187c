"""Addresses of Ray clusters that others run: the well-formed, the allowed, and those never connected to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from rayplane.errors import InvalidInput, InvalidSpec
from rayplane.gateway.ray_address import AllowList, parse, refusal


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("http://ray:8265", "http://ray:8265"),
        ("http://ray:8265/", "http://ray:8265"),
        ("HTTP://Ray.Example.ORG.:8265", "http://ray.example.org:8265"),
        ("https://ray.example.org", "https://ray.example.org:443"),
        ("http://10.0.0.1", "http://10.0.0.1:80"),
        ("http://[fd12::1]:8265", "http://[fd12::1]:8265"),
        ("http://ray_head-svc:8265", "http://ray_head-svc:8265"),
    ],
)
def test_a_base_url_is_parsed_in_each_of_its_spellings(text: str, base: str) -> None:
    assert str(parse(text)) == base


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ray:8265",
        "ftp://ray:8265",
        "file:///etc/passwd",
        "unix:///run/docker.sock",
        "http://",
        "http://:8265",
        "http://ray:0",
        "http://ray:65536",
        "http://ray:²",
        "http://ray:8265/admin",
        "http://ray:8265//",
        "http://ray:8265?",
        "http://ray:8265?a=b",
        "http://ray:8265#",
        "http://ray\r\nX-Injected: y:8265",
        "http://ray:8265/\t",
        " http://ray:8265",
        "http://ray\\@evil:8265",
        "http://räy:8265",
        "http://[fe80::1%25eth0]:8265",
        "http://[::1",
        "http://-ray:8265",
        "http://a..b:8265",
        "http://" + "a" * 64 + ":8265",
    ],
)
def test_anything_but_a_base_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match=r"cluster\.address: .*Write the dashboard's base URL alone"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["http://ada:geheim@ray:8265", "http://geheim@ray", "http://@ray", "http://a:geheim@x:99999"]
)
def test_a_user_and_a_password_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(text)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%2",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ],
)
def test_link_local_metadata_and_unspecified_addresses_are_never_asked(text: str) -> None:
    assert "link-local, a cloud's metadata service, or no single host" in refusal(ip_address(text))


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1", "fd12::1", "8.8.8.8", "2600::1"])
def test_other_addresses_may_be_asked_if_they_are_allowed(text: str) -> None:
    assert refusal(ip_address(text)) == ""


@pytest.mark.parametrize(
    ("entry", "host", "ip", "port", "allowed"),
    [
        ("127.0.0.0/8", "127.0.0.1", "127.0.0.1", 80, True),
        ("127.0.0.0/8", "localhost", "127.0.0.1", 80, True),
        ("127.0.0.0/8", "mapped", "::ffff:127.0.0.1", 80, True),
        ("127.0.0.0/8", "v6", "::1", 80, False),
        ("::1/128", "v6", "::1", 80, True),
        ("127.0.0.0/8", "evil", "10.0.0.1", 80, False),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3", 80, True),
        ("10.1.2.3", "10.1.2.4", "10.1.2.4", 80, False),
        ("10.1.0.0/16:8265", "10.1.2.3", "10.1.2.3", 8265, True),
        ("10.1.0.0/16:8265", "10.1.2.3", "10.1.2.3", 8266, False),
        ("[fd12::/16]:8265", "fd12::1", "fd12::1", 8265, True),
        ("[fd12::/16]:8265", "fd12::1", "fd12::1", 80, False),
        ("fd12::/16", "fd12::1", "fd12::1", 80, True),
        ("ray.example.org", "ray.example.org", "10.9.9.9", 80, True),
        ("Ray.Example.org", "ray.example.org", "10.9.9.9", 80, True),
        ("ray.example.org", "x.ray.example.org", "10.9.9.9", 80, False),
        ("ray.example.org:8265", "ray.example.org", "10.9.9.9", 80, False),
        ("*.example.org", "a.b.example.org", "10.9.9.9", 80, True),
        ("*.example.org", "example.org", "10.9.9.9", 80, False),
        ("*.example.org", "evilexample.org", "10.9.9.9", 80, False),
    ],
)
def test_an_entry_allows_only_its_own_addresses(entry: str, host: str, ip: str, port: int, allowed: bool) -> None:
    assert AllowList([entry]).allows(host, ip_address(ip), port) is allowed


def test_an_empty_list_allows_nothing() -> None:
    assert not AllowList([]).allows("localhost", ip_address("127.0.0.1"), 80)


@pytest.mark.parametrize(
    "entry",
    ["", "10.1", "10.1.2.3/8", "10.1.2.3:0", "10.1.2.3:99999", "http://ray:8265", "*", "*.", "a b", "[ray]", "::g"],
)
def test_a_malformed_entry_is_refused_with_the_name_of_the_setting(entry: str) -> None:
    with pytest.raises(InvalidInput, match=r"RAYPLANE_EXISTING_ADDRESSES: .*Write such as"):
        AllowList([entry])
