from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assisters_otel import config
from assisters_otel import hosts as watched
from assisters_otel.hosts import Host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gateway.example", Host("gateway.example")),
        ("GateWay.Example:8080", Host("gateway.example", 8080)),
        ("gateway.example/Assisters/", Host("gateway.example", None, "/Assisters")),
        ("http://127.0.0.1:8080/v1", Host("127.0.0.1", 8080, "/v1")),
        ("https://gateway.example", Host("gateway.example")),
        (" gateway.example ", Host("gateway.example")),
        ("[::1]:8080/v1", Host("::1", 8080, "/v1")),
        ("localhost:0", Host("localhost", 0)),
        ("xn--bcher-kva.example", Host("bücher.example")),
        ("Bücher.example", Host("bücher.example")),
        ("हिन्दी.example", Host("हिन्दी.example")),
        ("my_gateway:8080", Host("my_gateway", 8080)),
        ("gateway.example.", Host("gateway.example")),
        ("XN--BCHER-KVA.Example.:8080", Host("bücher.example", 8080)),
        ("www.xn--bcher-kva.example", Host("www.bücher.example")),
        ("xn--strae-oqa.example", Host("straße.example")),
        ("straße.example", Host("straße.example")),
        ("bu\u0308cher.example", Host("bücher.example")),
        ("💩.example", Host("xn--ls8h.example")),  # refused by IDNA 2008; aiohttp sends to it
        ("xn--a.example", Host("xn--a.example")),
        ("http://gateway.example/v1//", Host("gateway.example", None, "/v1")),
        ("gateway.example/@org/v1", Host("gateway.example", None, "/@org/v1")),
        ("http:8080", Host("http", 8080)),
        ("http://http:8080", Host("http", 8080)),
    ],
)
def test_a_host_is_read(text, expected):
    assert watched.host(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "https//gateway.example/v1",
        "http:/gateway",
        "https:/user:secret@gateway.example/v1",
        "user:secret@gateway.example/v1",
        "gateway.example/v1@x",
        "gw1.example,gw2.example",
        "a;b",
        "gateway..example",
        "*.example",
        "[::1",
        "[not:an:address]",
        "[v1.a:b]",
        "http://[v1.a:b]:8080/v1",
        "http:/",
        "http",
        "http:/127.0.0.1:8080/v1",
        "https://a.example/v1,https://b.example/v1",
    ],
)
def test_a_typing_error_is_no_host_and_no_password_is_shown(text):
    with pytest.raises(ValueError, match=r"not a host: .* Write host") as raised:
        watched.host(text)

    assert "secret" not in str(raised.value)


@given(st.text())
def test_any_other_text_is_a_value_error_that_says_what_to_write(text):
    with contextlib.suppress(ValueError):
        assert watched.host(text).name
        return
    with pytest.raises(ValueError, match="Write host"):
        watched.host(text)


@pytest.mark.parametrize(
    "text",
    ["gateway.example", "gateway.example:8080", "gateway.example/v1", "[::1]:8080/v1"],
)
def test_a_host_is_shown_as_it_is_written(text):
    assert str(watched.host(text)) == text


@pytest.mark.parametrize(
    ("host", "port", "path", "expected"),
    [
        ("h", 443, "/anything", True),
        ("h:8080", 8080, "/", True),
        ("h:8080", 443, "/", False),
        ("h/api/v1", 443, "/api/v1", True),
        ("h/api/v1", 443, "/api/v1/models", True),
        ("h/api/v1", 443, "/api/v10", False),
        ("h/api/v1", 443, "/", False),
        ("h/api/v1", 443, "/API/V1/models", False),
    ],
)
def test_a_host_covers_its_ports_and_paths_and_no_others(host, port, path, expected):
    assert watched.host(host).covers(port, path) is expected


def test_the_api_is_watched_and_the_web_site_is_not():
    hosts = config.from_arguments().hosts_by_name()

    (api,), (site,) = hosts["api.assisters.dev"], hosts["assisters.dev"]
    assert api.covers(443, "/v1/models")
    assert site.covers(443, "/api/v1/models")
    assert not site.covers(443, "/pricing")


@pytest.mark.parametrize("written", ["bücher.example", "xn--bcher-kva.example", "Bücher.Example."])
@pytest.mark.parametrize("asked", ["bücher.example", "xn--bcher-kva.example"])
@pytest.mark.parametrize("dot", ["", "."])
def test_a_host_is_known_by_each_of_its_names(written, asked, dot):
    hosts = config.from_arguments(hosts=[written]).hosts_by_name()

    assert hosts[asked + dot] == (Host("bücher.example"),)


@pytest.mark.parametrize("name", ["bücher.example", "straße.example", "xn--bcher-kva.example"])
def test_a_name_has_its_two_forms_where_the_clients_package_is_not_installed(monkeypatch, name):
    monkeypatch.setattr(watched, "_idna", lambda: None)

    (host,) = config.from_arguments(hosts=[name]).hosts[2:]

    assert host.spellings()[1].startswith(("xn--", "strasse"))


def test_one_name_may_have_several_prefixes():
    hosts = config.from_arguments(hosts=["h/a", "h/b", "h/a"]).hosts_by_name()

    assert hosts["h"] == (Host("h", None, "/a"), Host("h", None, "/b"))


@pytest.mark.parametrize("text", ["true", "1", "YES", " on "])
def test_a_message_is_captured_if_the_variable_says_so(text):
    assert config.environment_capture_message({"ASSISTERS_OTEL_CAPTURE_MESSAGE": text})


@pytest.mark.parametrize("text", ["false", "0", "No", "off", ""])
def test_a_message_is_not_captured_if_the_variable_says_no(text):
    assert not config.environment_capture_message({"ASSISTERS_OTEL_CAPTURE_MESSAGE": text})
