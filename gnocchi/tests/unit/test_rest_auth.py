"""Who is asking."""

import base64

import pytest

from gnocchi.rest import auth, errors


def basic(text):
    return {"HTTP_AUTHORIZATION": "basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize("text, name", [
    ("bob:", "bob"), ("bob:secret", "bob"), ("bob", "bob"), ("bob:a:b", "bob"), ("✔é:x", "✔é"),
])
def test_basic_takes_the_name_before_the_first_colon(text, name):
    """The password does not matter."""
    assert name == auth.BasicAuth().identify(basic(text)).creator


@pytest.mark.parametrize("environ", [
    {}, {"HTTP_AUTHORIZATION": ""}, {"HTTP_AUTHORIZATION": "basic"}, {"HTTP_AUTHORIZATION": "basic !"},
    {"HTTP_AUTHORIZATION": "Bearer Ym9iOg=="}, {"HTTP_AUTHORIZATION": "basic /////w=="}, basic(":x"), basic("a\0b:"),
    basic("a" * 256 + ":"), {"REMOTE_USER": "bob"}, {"HTTP_AUTHORIZATION": "basic \xe9"},
])
def test_basic_refuses_what_names_nobody(environ):
    """401 with a challenge."""
    with pytest.raises(errors.RequestError) as caught:
        auth.BasicAuth().identify(environ)
    assert caught.value.status == 401
    assert "WWW-Authenticate" in caught.value.headers


@pytest.mark.parametrize("value, name", [("bob", "bob"), (b"bob", "bob"), ("\xc3\xa9", "é"), ("é".encode(), "é")])
def test_remote_user_may_be_text_or_bytes(value, name):
    """Servers give text, which is bytes read as Latin-1; tests of old gave bytes."""
    identity = auth.RemoteUserAuth().identify({"REMOTE_USER": value})
    assert (name, name, []) == (identity.creator, identity.credentials["user"], identity.credentials["roles"])


@pytest.mark.parametrize("environ", [{}, {"REMOTE_USER": ""}, {"REMOTE_USER": None}, basic("bob:"),
                                     {"HTTP_REMOTE_USER": "admin"}, {"REMOTE_USER": b"\xff"}])
def test_remote_user_is_what_the_server_says_only(environ):
    """Nothing that a client can send counts."""
    with pytest.raises(errors.RequestError) as caught:
        auth.RemoteUserAuth().identify(environ)
    assert caught.value.status == 401


@pytest.mark.parametrize("name, roles", [("admin", ["admin"]), ("Admin", []), ("administrator", []), ("bob", [])])
def test_only_admin_is_administrator(name, roles):
    """Exactly that name has the role."""
    credentials = auth.BasicAuth().identify(basic(name)).credentials
    assert (roles, "all") == (credentials["roles"], credentials["system"])


@pytest.mark.parametrize("creator, halves", [
    ("bob", ("bob", "")), ("u:p", ("u", "p")), ("u:p:q", ("u", "p:q")), (":p", ("", "p")), (None, (None, None)),
])
def test_creator_is_split_at_the_first_colon(creator, halves):
    """So replies show who created something."""
    assert halves == auth.split_creator(creator)


def keystone(**headers):
    return {f"HTTP_{name}": value for name, value in headers.items()}


def test_keystone_takes_what_the_filter_says():
    """The creator is user and project together; blanks and empty roles do not count."""
    identity = auth.KeystoneAuth().identify(keystone(
        X_USER_ID="u", X_PROJECT_ID="p", X_DOMAIN_ID=None, X_ROLES="member, reader,,", X_USER_NAME="ann"))
    assert auth.Identity("u:p", {"user": "u:p", "user_id": "u", "project_id": "p", "roles": ["member", "reader"]}) == (
        identity)


@pytest.mark.parametrize("headers, scope", [
    ({}, {}), ({"X_PROJECT_ID": ""}, {}), ({"X_DOMAIN_ID": "d"}, {"domain_id": "d"}),
    ({"OPENSTACK_SYSTEM_SCOPE": "all"}, {"system_scope": "all"}),
])
def test_keystone_leaves_out_what_a_token_is_not_for(headers, scope):
    """So that no rule finds it equal to something."""
    identity = auth.KeystoneAuth().identify(keystone(X_USER_ID="u", **headers))
    assert auth.Identity("u:", {"user": "u:", "user_id": "u", "roles": [], **scope}) == identity


@pytest.mark.parametrize("environ", [
    {}, keystone(X_USER_ID="", X_PROJECT_ID="p"), keystone(X_USER_ID=None), keystone(X_USER_ID=" "),
    keystone(X_USER_ID="a\nb"), keystone(X_USER_ID="u", X_PROJECT_ID="p" * 254), keystone(X_USER_ID="\xff"),
    keystone(X_USER_ID="u", X_ROLES="\x00"), {"X_USER_ID": "u"}, basic("admin")])
def test_keystone_refuses_what_names_nobody(environ):
    """Where the filter was taken out of the pipeline, these come from the client."""
    with pytest.raises(errors.RequestError) as caught:
        auth.KeystoneAuth().identify(environ)
    assert caught.value.status == 401
