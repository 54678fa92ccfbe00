"""Authlib (with requests) as the app of a SaaS team, at both issuers; keys and tokens are
looked at a second time with PyJWT and joserfc."""

import json
import os
import re
import socket
import sys
import time
import traceback
from html.parser import HTMLParser
from urllib.parse import parse_qs, urljoin, urlsplit

import jwt
import requests
from authlib.common.security import generate_token
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt as jose
from joserfc.jwk import KeySet

# The issuers of this test are on plain HTTP, on this machine.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

with open(os.environ["PEERS_FIXTURE"], encoding="utf-8") as file:
    FIXTURE = json.load(file)
ACME, GLOBEX = FIXTURE["organizations"]["acme"], FIXTURE["organizations"]["globex"]
APPS = FIXTURE["applications"]

# RFC 6761: localhost and all below it is this machine, though many name services do not know.
_getaddrinfo = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **named: _getaddrinfo(
    "127.0.0.1" if isinstance(host, str) and (host == "localhost" or host.endswith(".localhost")) else host,
    *rest,
    **named,
)

failures = 0


def check(name, act):
    """One line a check, which `run` counts."""
    global failures
    try:
        value = act()
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the result
        failures += 1
        print(f"FAIL {name}: {type(error).__name__}: {error}".replace("\n", "\n     "), flush=True)
        if os.environ.get("PEERS_TRACE"):
            traceback.print_exc()
        return None
    print(f"ok   {name}", flush=True)
    return value


def equal(found, wanted, what=""):
    assert found == wanted, f"{what} {found!r}, not {wanted!r}"


def refuses(act, expected):
    try:
        value = act()
    except OAuthError as error:
        equal(error.error, expected)
        return
    raise AssertionError(f"accepted, should be {expected}: {value}")


class Forms(HTMLParser):
    """The forms of a page: where they go, what they hold, which kinds of input they have."""

    def __init__(self, page):
        super().__init__()
        self.forms, self._open = [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            self._open = {"action": attrs.get("action", ""), "fields": {}, "types": []}
            self.forms.append(self._open)
        elif tag == "input" and self._open is not None:
            self._open["types"].append(attrs.get("type", "text"))
            if attrs.get("name"):
                self._open["fields"][attrs["name"]] = attrs.get("value") or ""

    def handle_endtag(self, tag):
        if tag == "form":
            self._open = None


class Person:
    """A browser without scripts: redirects, cookies for each host, forms with hidden fields."""

    def __init__(self, *arrivals):
        self.arrivals = arrivals
        self.jars = {}

    def go(self, url, form=None):
        for _ in range(15):
            if any(url.split("?")[0] == arrival for arrival in self.arrivals):
                return url, None
            jar = self.jars.setdefault(urlsplit(url).hostname, {})
            headers = {"Accept": "text/html", "Cookie": "; ".join(f"{k}={v}" for k, v in jar.items())}
            if form is not None:
                headers["Origin"] = "{0.scheme}://{0.netloc}".format(urlsplit(url))
            session = requests.Session()
            session.trust_env = False
            method = "GET" if form is None else "POST"
            response = session.request(method, url, data=form, headers=headers, allow_redirects=False, timeout=300)
            for cookie in response.cookies:
                jar[cookie.name] = cookie.value
            if response.is_redirect:
                url, form = urljoin(url, response.headers["Location"]), None
                continue
            return url, response
        raise AssertionError(f"too many redirects, the last to {url}")

    def submit(self, url, response, wanted, typed):
        form = next((f for f in Forms(response.text).forms if wanted(f)), None)
        assert form, f"no such form on {response.status_code} {url}"
        return self.go(urljoin(url, form["action"]), {**form["fields"], **typed})

    def authorize(self, url, member=None):
        url, page = self.go(url)
        for _ in range(4):
            if page is None:
                return url
            forms = Forms(page.text).forms
            if any(asks_for_password(f) for f in forms):
                assert member, "a password is asked for, though the person is signed in"
                typed = {"email": member["email"], "password": member["password"]}
                url, page = self.submit(url, page, asks_for_password, typed)
                member = None
            elif any(confirms(f) for f in forms):
                url, page = self.submit(url, page, confirms, {"action": "continue"})
            else:
                break
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.text))
        raise AssertionError(f"stuck at {page.status_code} {url}: {text[:200]}")


def asks_for_password(form):
    return "password" in form["types"] and "email" in form["fields"]


def confirms(form):
    return urlsplit(form["action"]).path.endswith("/confirm")


def session_for(app):
    method = {"basic": "client_secret_basic", "post": "client_secret_post", "none": "none"}[app["method"]]
    session = OAuth2Session(
        app["client_id"],
        app.get("client_secret"),
        scope="openid profile email offline_access",
        redirect_uri=app["redirect_uri"],
        token_endpoint_auth_method=method,
        code_challenge_method="S256",
    )
    session.trust_env = False
    return session


def journey(issuer, extra, app, label):
    def step(name, act):
        return check(f"{label}: {name}", act)

    plain = requests.Session()
    plain.trust_env = False
    metadata = step("discovery", lambda: plain.get(f"{issuer}/.well-known/openid-configuration", timeout=300).json())
    if not metadata:
        return
    person, session = Person(app["redirect_uri"], app["post_logout_redirect_uri"]), session_for(app)
    member = ACME["members"]["ada"]

    def sign_in(member=None, **more):
        verifier, nonce = generate_token(48), generate_token(16)
        url, state = session.create_authorization_url(
            metadata["authorization_endpoint"], code_verifier=verifier, nonce=nonce, **extra, **more
        )
        arrived = person.authorize(url, member)
        answer = parse_qs(urlsplit(arrived).query)
        equal(answer["iss"], [issuer], "iss")
        return arrived, state, verifier, nonce

    def fetch():
        arrived, state, verifier, nonce = sign_in(member)
        token = session.fetch_token(
            metadata["token_endpoint"], authorization_response=arrived, state=state, code_verifier=verifier
        )
        assert token["refresh_token"] and token["id_token"]
        return dict(token), nonce, arrived, state, verifier

    done = step("code + PKCE to tokens", fetch)
    if not done:
        return
    token, nonce, arrived, state, verifier = done

    def by_pyjwt():
        keys = jwt.PyJWKClient(metadata["jwks_uri"])
        key = keys.get_signing_key_from_jwt(token["id_token"])
        claims = jwt.decode(token["id_token"], key, [app["alg"]], audience=app["client_id"], issuer=issuer)
        equal(claims["nonce"], nonce, "nonce")
        equal(claims["org_id"], ACME["id"], "org_id")
        equal(claims["org_slug"], "acme", "org_slug")
        equal(claims["amr"], ["pwd"], "amr")
        equal(claims["email"], member["email"], "email")
        assert claims["sid"] and abs(time.time() - claims["auth_time"]) < 60
        return claims

    claims = step("ID token by PyJWT", by_pyjwt)

    def by_joserfc():
        keys = KeySet.import_key_set(plain.get(metadata["jwks_uri"], timeout=300).json())
        for name, kind in [("id_token", "JWT"), ("access_token", "at+jwt")]:
            decoded = jose.decode(token[name], keys, algorithms=["RS256", "ES256"])
            equal(decoded.header.get("typ", "JWT"), kind, f"typ of {name}")
            equal(decoded.claims["iss"], issuer, "iss")
            jose.JWTClaimsRegistry(sub={"essential": True}, exp={"essential": True}).validate(decoded.claims)

    step("both tokens by joserfc", by_joserfc)

    def userinfo():
        answer = session.get(metadata["userinfo_endpoint"])
        equal(answer.status_code, 200)
        equal(answer.json()["sub"], claims["sub"], "sub")
        equal(answer.json()["email"], member["email"], "email")

    step("userinfo", userinfo)

    def introspect(of, hint):
        return session.introspect_token(metadata["introspection_endpoint"], token=of, token_type_hint=hint).json()

    if app["method"] != "none":
        step("introspection", lambda: equal(introspect(token["access_token"], "access_token")["active"], True))

    def refresh():
        new = dict(session.refresh_token(metadata["token_endpoint"], refresh_token=token["refresh_token"]))
        assert new["refresh_token"] != token["refresh_token"], "the refresh token did not rotate"
        refuses(
            lambda: session.refresh_token(metadata["token_endpoint"], refresh_token=token["refresh_token"]),
            "invalid_grant",
        )
        refuses(
            lambda: session.refresh_token(metadata["token_endpoint"], refresh_token=new["refresh_token"]),
            "invalid_grant",
        )

    step("refresh rotates, reuse revokes the family", refresh)

    def again():
        arrived, state, verifier, _ = sign_in()
        return dict(
            session.fetch_token(
                metadata["token_endpoint"], authorization_response=arrived, state=state, code_verifier=verifier
            )
        )

    def revoke():
        token = again()
        answer = session.revoke_token(
            metadata["revocation_endpoint"], token=token["refresh_token"], token_type_hint="refresh_token"
        )
        equal(answer.status_code, 200)
        refuses(
            lambda: session.refresh_token(metadata["token_endpoint"], refresh_token=token["refresh_token"]),
            "invalid_grant",
        )
        if app["method"] != "none":
            equal(introspect(token["access_token"], "access_token")["active"], False, "active")

    step("revocation", revoke)
    step(
        "a used code is refused",
        lambda: refuses(
            lambda: session.fetch_token(
                metadata["token_endpoint"], authorization_response=arrived, state=state, code_verifier=verifier
            ),
            "invalid_grant",
        ),
    )

    def logout():
        token = again()
        url = requests.Request(
            "GET",
            metadata["end_session_endpoint"],
            params={
                "id_token_hint": token["id_token"],
                "post_logout_redirect_uri": app["post_logout_redirect_uri"],
                "state": "after",
            },
        ).prepare()
        url, page = person.go(url.url)
        if page is not None:
            url, page = person.submit(url, page, confirms, {})
        assert page is None, f"stuck at {url}"
        equal(parse_qs(urlsplit(url).query).get("state"), ["after"], "state")
        # Signed out: nobody is there to answer without a question.
        arrived, *_ = sign_in(prompt="none")
        equal(parse_qs(urlsplit(arrived).query).get("error"), ["login_required"], "error")

    step("logout", logout)


def main():
    ways = [("own issuer", ACME["issuer"], {}), ("deployment issuer", FIXTURE["public_url"], {"organization": "acme"})]
    for name, issuer, extra in ways:
        for app in ["basic", "post", "public"]:
            journey(issuer, extra, APPS[app], f"{name}, {APPS[app]['label']}")

    def isolated():
        """The keys of one organization say nothing about the tokens of another."""
        plain = requests.Session()
        plain.trust_env = False
        kids = []
        for issuer in [ACME["issuer"], GLOBEX["issuer"]]:
            keys = plain.get(f"{issuer}/oauth2/jwks", timeout=300).json()["keys"]
            assert keys
            kids.append({key["kid"] for key in keys})
        assert not kids[0] & kids[1], "two organizations share a signing key"

    check("each organization has its own signing keys", isolated)
    sys.exit(1 if failures else 0)


main()
