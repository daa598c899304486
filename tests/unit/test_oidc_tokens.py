"""Access tokens: good ones of the known issuers' shapes are somebody, and bad ones are nobody, each for its own reason."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sumika.models.errors import SumikaError
from sumika.models.oidc_settings import Grant, IssuerSettings
from sumika.models.principals import Principal
from sumika.serving.auth import authenticate
from sumika.serving.oidc import provider as providers
from sumika.serving.oidc.authenticator import TokenAuthenticator
from sumika.serving.oidc.fetching import Outside
from sumika.serving.oidc.provider import Provider
from tests.oidc_issuer import AUDIENCE, CLIENT, CONSOLE, Issuer, b64, jwk, new_rsa

GRANTS = [
    Grant(group="llm-admins", role="admin"),
    Grant(group="llm-engineers", role="engineer", team="dx"),
    Grant(email="suzuki@example.co.jp", role="app", team="soumu"),
]


# Those that are there, by name.
TEAMS = {"dx": "team-1", "soumu": "team-2"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """With the keys of all tests, which are slow to make."""
    made = Issuer()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def as_new(issuer: Issuer) -> None:
    issuer.keys, issuer.broken, issuer.delay_s = [jwk(issuer.rsa, "rsa-1"), jwk(issuer.ec, "ec-1")], None, 0.0
    issuer.asked.clear()


def settings(issuer: Issuer, **changed: Any) -> IssuerSettings:
    return IssuerSettings(**{
        "name": "company", "issuer": issuer.url, "audience": AUDIENCE, "client_id": CONSOLE, "clients": [CLIENT],
        "algorithms": ["RS256", "ES256"], "grants": GRANTS,
    } | changed)  # fmt: skip


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    made = Outside()
    yield made
    await made.close()


@pytest.fixture
def who(issuer: Issuer, outside: Outside) -> TokenAuthenticator:
    return TokenAuthenticator([Provider(settings(issuer), outside)], lambda: TEAMS)


async def test_team_that_is_not_there_is_nobodys_and_a_new_one_of_its_name_is_another(issuer: Issuer, outside: Outside) -> None:
    teams: dict[str, str] = {}
    who, token = TokenAuthenticator([Provider(settings(issuer), outside)], lambda: teams), issuer.token()
    found = await who.identify(token)
    assert found is not None and (found.team, found.owner) == (None, "key:oidc:company:5f1c0a3e")
    for made in ("team-1", "team-2"):  # the same token, believed from before
        teams["dx"] = made
        found = await who.identify(token)
        assert found is not None and (found.team, found.owner) == ("dx", made)


async def test_token_in_keycloaks_shape_is_a_principal(issuer: Issuer, who: TokenAuthenticator) -> None:
    found = await who.identify(issuer.token())
    assert found == Principal("oidc:company:5f1c0a3e", "sato", "engineer", "dx", team_id="team-1")
    both = issuer.claims(groups=["llm-engineers", "llm-admins"], aud=["account", AUDIENCE])
    assert (await who.identify(issuer.token(both, algorithm="ES256"))) == Principal("oidc:company:5f1c0a3e", "sato", "admin")


async def test_token_in_entra_ids_shape_is_a_principal(issuer: Issuer, outside: Outside) -> None:
    group, tenant = "0f1b3c5e-6a7d-4c1e-9b2a-1d2e3f405162", "9188040d-6c67-4c5b-b112-36a304b66dad"
    mine = settings(
        issuer,
        subject_claim="oid",
        required_claims={"tid": tenant, "ver": "2.0"},
        grants=[Grant(group=group, role="engineer", team="dx")],
    )
    who = TokenAuthenticator([Provider(mine, outside)], lambda: TEAMS)
    claims = issuer.claims(
        typ=None,
        oid="aaaa-bbbb",
        sub="pairwise-xyz",
        tid=tenant,
        ver="2.0",
        groups=[group],
        name="佐藤 花子",
        preferred_username=None,
    )
    assert await who.identify(issuer.token(claims)) == Principal(
        "oidc:company:aaaa-bbbb", "佐藤 花子", "engineer", "dx", team_id="team-1"
    )
    assert await who.identify(issuer.token(claims | {"tid": "another"})) is None


async def test_token_in_googles_shape_is_told_by_its_verified_address(issuer: Issuer, who: TokenAuthenticator) -> None:
    claims = issuer.claims(
        typ=None, sub="110169484474386276334", groups=None, email="suzuki@example.co.jp", email_verified=True, hd="example.co.jp"
    )
    assert await who.identify(issuer.token(claims)) == Principal(
        "oidc:company:110169484474386276334", "sato", "app", "soumu", team_id="team-2"
    )


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = time.monotonic
    monkeypatch.setattr(providers.time, "monotonic", lambda: real() + seconds)


def pem(issuer: Issuer) -> bytes:
    return issuer.rsa.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def claimed(**changed: Any) -> Callable[[Issuer], str]:
    return lambda issuer: issuer.token(issuer.claims(**changed))


def headed(**header: Any) -> Callable[[Issuer], str]:
    return lambda issuer: issuer.token(**header)


def hmac_signed(issuer: Issuer, key: bytes) -> str:
    """As somebody does it who takes a public key for the secret of an HMAC; PyJWT itself would not."""
    import hashlib
    import hmac

    text = f"{b64({'alg': 'HS256', 'typ': 'JWT', 'kid': 'rsa-1'})}.{b64(issuer.claims())}"
    return f"{text}.{b64(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


def with_last_bits(token: str) -> str:
    """The same bytes in another spelling: the last character of a signature of 256 bytes has bits that count for nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


OTHER_RSA, P384 = new_rsa(), ec.generate_private_key(ec.SECP384R1())
NOW = int(time.time())
BAD: dict[str, Callable[[Issuer], str]] = {
    "alg none": lambda i: f"{b64({'alg': 'none', 'typ': 'JWT', 'kid': 'rsa-1'})}.{b64(i.claims())}.",
    "alg none, signed": lambda i: i.signed({"alg": "none", "typ": "JWT", "kid": "rsa-1"}, i.claims(), i.rsa, "RS256"),
    "alg NoNe": headed(alg="NoNe"),
    "HS256 by the public PEM": lambda i: hmac_signed(i, pem(i)),
    "HS256 by the public JWK": lambda i: hmac_signed(i, json.dumps(i.keys[0]).encode()),
    "alg not in the settings": lambda i: i.token(algorithm="RS512"),
    "alg PS256": lambda i: i.token(algorithm="PS256"),
    "alg is a list": headed(alg=["RS256"]),
    "alg says ES256, RSA signed": lambda i: i.signed({"alg": "ES256", "typ": "JWT", "kid": "rsa-1"}, i.claims(), i.rsa, "RS256"),
    "another issuer's key": lambda i: i.token(key=OTHER_RSA),
    "curve of another algorithm": lambda i: i.signed({"alg": "ES256", "typ": "JWT", "kid": "ec-1"}, i.claims(), P384, "ES384"),
    "unknown kid": headed(kid="rsa-2"),
    "kid of the other key": headed(kid="ec-1"),
    "kid is a path": headed(kid="../../../../dev/null"),
    "kid is SQL": headed(kid="x' UNION SELECT 'key"),
    "kid is an address": headed(kid="https://evil.example/jwks"),
    "kid is a list": headed(kid=["rsa-1"]),
    "kid missing": headed(kid=None),
    "kid too long": headed(kid="k" * 5000),
    "crit": headed(crit=["exp"]),
    "b64 false": headed(b64=False, crit=["b64"]),
    "key inside": lambda i: i.token(key=OTHER_RSA, jwk=jwk(OTHER_RSA, "rsa-1")),
    "key elsewhere (jku)": lambda i: i.token(key=OTHER_RSA, jku="https://evil.example/jwks"),
    "key elsewhere (x5u)": lambda i: i.token(key=OTHER_RSA, x5u="https://evil.example/cert"),
    "key elsewhere in a good token (x5u)": headed(x5u="https://id.example.co.jp/cert"),
    "key elsewhere in a good token (jku)": headed(jku="https://id.example.co.jp/jwks"),
    "certificate in a good token (x5c)": headed(x5c=["MIIB"]),
    "key in a good token (jwk)": lambda i: i.token(jwk=jwk(i.rsa, "rsa-1")),
    "nobody asked for it": claimed(azp=None),
    "cid of a stranger": claimed(cid="someone-elses-app"),
    "typ of another kind": headed(typ="logout+jwt"),
    "typ is a number": headed(typ=1),
    "bound to its sender": claimed(cnf={"x5t#S256": "x"}),
    "nested": headed(cty="JWT"),
    "wrong iss": claimed(iss="https://evil.example"),
    "iss with a slash more": lambda i: i.token(i.claims(iss=i.url + "/")),
    "iss is a list": lambda i: i.token(i.claims(iss=[i.url])),
    "iss missing": claimed(iss=None),
    "wrong aud": claimed(aud="another-api"),
    "aud without us": claimed(aud=["account", "another-api"]),
    "aud empty": claimed(aud=[]),
    "aud with a number": claimed(aud=[AUDIENCE, 1]),
    "aud is an object": claimed(aud={AUDIENCE: True}),
    "aud in another case": claimed(aud=AUDIENCE.upper()),
    "aud missing": claimed(aud=None),
    "azp of a stranger": claimed(azp="someone-elses-app"),
    "azp is a list": claimed(azp=[CLIENT]),
    "client_id of a stranger": claimed(client_id="someone-elses-app"),
    "expired": claimed(exp=NOW - 120, iat=NOW - 400),
    "exp missing": claimed(exp=None),
    "exp is a text": claimed(exp=str(NOW + 300)),
    "exp is a float": claimed(exp=NOW + 300.5),
    "exp is true": claimed(exp=True),
    "exp is huge": claimed(exp=10**18),
    "exp is 1e308": lambda i: i.signed({"alg": "RS256", "kid": "rsa-1"}, json.dumps(i.claims()).replace(f'"exp": {i.claims()["exp"]}', '"exp": 1e308'), i.rsa, "RS256"),
    "exp before iat": claimed(iat=NOW + 20, exp=NOW + 10),
    "not yet": claimed(nbf=NOW + 86_400),
    "nbf is true": claimed(nbf=True),
    "iat in the future": claimed(iat=NOW + 86_400, exp=NOW + 86_700),
    "iat missing": claimed(iat=None),
    "sub missing": claimed(sub=None),
    "sub empty": claimed(sub=""),
    "sub is a number": claimed(sub=1),
    "sub too long": claimed(sub="s" * 1000),
    "an ID token": lambda i: i.token(i.claims(aud=CONSOLE, azp=CONSOLE, typ="ID", nonce="n")),
    "an ID token for the API": claimed(typ="ID"),
    "an ID token by its hashes": claimed(typ=None, at_hash="x"),
    "a refresh token": claimed(typ="Refresh"),
    "groups as one text": claimed(groups="llm-admins"),
    "groups as an object": claimed(groups={"llm-admins": True}),
    "look-alike group (Cyrillic а)": claimed(groups=["llm-аdmins"]),
    "look-alike group (full width)": claimed(groups=["ｌｌｍ-admins"]),
    "group in another case": claimed(groups=["LLM-ADMINS"]),
    "group with a space": claimed(groups=[" llm-admins"]),
    "no group of ours": claimed(groups=[]),
    "address not verified": claimed(groups=[], email="suzuki@example.co.jp", email_verified=False),
    "address verified by a text": claimed(groups=[], email="suzuki@example.co.jp", email_verified="true"),
    "role in the token": claimed(groups=[], role="admin", roles=["admin"], user_role="admin"),
    "claims twice": lambda i: i.signed({"alg": "RS256", "kid": "rsa-1"}, json.dumps(i.claims())[:-1] + ', "sub": "other"}', i.rsa, "RS256"),
    "header twice": lambda i: i.signed('{"alg":"RS256","alg":"RS256","kid":"rsa-1"}', i.claims(), i.rsa, "RS256"),
    "claims are a list": lambda i: i.signed({"alg": "RS256", "kid": "rsa-1"}, "[1]", i.rsa, "RS256"),
    "claims are no JSON": lambda i: i.signed({"alg": "RS256", "kid": "rsa-1"}, "x", i.rsa, "RS256"),
    "claims too deep": lambda i: i.signed({"alg": "RS256", "kid": "rsa-1"}, "[" * 3000 + "]" * 3000, i.rsa, "RS256"),
    "claim changed": lambda i: (t := i.token().split("."))[0] + "." + b64(i.claims(groups=["llm-admins"])) + "." + t[2],
    "signature empty": lambda i: i.token().rpartition(".")[0] + ".",
    "signature missing": lambda i: i.token().rpartition(".")[0],
    "signature of another token": lambda i: i.token(i.claims(sub="a")).rpartition(".")[0] + "." + i.token().rpartition(".")[2],
    "signature cut": lambda i: i.token()[:-8],
    "two signatures": lambda i: i.token() + "." + i.token().rpartition(".")[2],
    "JSON serialisation": lambda i: json.dumps({"payload": b64(i.claims()), "signatures": []}),
    "five parts": lambda i: i.token() + ".x.y",
    "bytes behind": lambda i: i.token() + "AAAA",
    "spelled otherwise": lambda i: with_last_bits(i.token()),
    "padding": lambda i: i.token() + "==",
    "line break inside": lambda i: i.token().replace(".", ".\n", 1),
    "space behind": lambda i: i.token() + " ",
    "standard base64": lambda i: i.token().replace("-", "+").replace("_", "/") + "+",
    "too long": lambda i: i.token(i.claims(groups=["llm-admins", *["g" * 60] * 400])),
    "not ASCII": lambda i: i.token()[:-1] + "Ａ",
    "empty": lambda i: "",
}  # fmt: skip


def test_there_are_more_than_forty() -> None:
    assert len(BAD) > 40


@pytest.mark.parametrize("made", BAD.values(), ids=BAD)
async def test_bad_token_is_nobody(issuer: Issuer, who: TokenAuthenticator, made: Callable[[Issuer], str]) -> None:
    assert await who.identify(issuer.token()) is not None  # the good one, so that it is the badness that counts
    assert await who.identify(made(issuer)) is None
    assert sum(issuer.asked.values()) == 2  # the discovery and the keys, once; nothing of what the token says


@pytest.mark.parametrize("same", [20, 100, 1000])
async def test_tokens_that_begin_alike_are_two_people(issuer: Issuer, who: TokenAuthenticator, same: int) -> None:
    claims = issuer.claims(aaa="x" * 1000)
    first = issuer.token({"filler": "x" * 1000} | claims | {"sub": "one"})
    second = issuer.token({"filler": "x" * 1000} | claims | {"sub": "two", "groups": ["llm-admins"]})
    assert first[:same] == second[:same] and first != second
    found = [await who.identify(token) for token in (first, second, first)]
    assert [one and one.id for one in found] == ["oidc:company:one", "oidc:company:two", "oidc:company:one"]


async def test_same_subject_of_two_issuers_is_two_people(issuer: Issuer, outside: Outside) -> None:
    other = Issuer()
    try:
        who = TokenAuthenticator([Provider(settings(issuer), outside), Provider(settings(other, name="other"), outside)])
        ids = [(await who.identify(one.token())) for one in (issuer, other)]
        assert [one and one.id for one in ids] == ["oidc:company:5f1c0a3e", "oidc:other:5f1c0a3e"]
        assert await who.identify(issuer.token(issuer.claims(iss=other.url))) is None
    finally:
        other.stop()


async def test_token_believed_before_ends_with_its_exp(issuer: Issuer, outside: Outside) -> None:
    who = TokenAuthenticator([Provider(settings(issuer, leeway_s=0), outside)])
    token = issuer.token(issuer.claims(exp=int(time.time()) + 2))
    assert await who.identify(token) is not None
    await asyncio.sleep(2.1)
    assert await who.identify(token) is None


async def test_made_up_names_of_keys_make_no_calls(issuer: Issuer, who: TokenAuthenticator) -> None:
    for number in range(50):
        assert await who.identify(issuer.token(kid=f"made-up-{number}")) is None
    assert issuer.asked["/jwks"] == 1


async def test_rotated_keys_are_fetched_once_the_pause_is_over(
    issuer: Issuer, who: TokenAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = issuer.token()
    assert await who.identify(old) is not None
    issuer.keys = [jwk(OTHER_RSA, "rsa-2")]
    new = issuer.token(key=OTHER_RSA, kid="rsa-2")
    assert await who.identify(new) is None  # within the pause
    later(monkeypatch, 61)
    assert await who.identify(new) is not None
    assert await who.identify(issuer.token(issuer.claims(jti="fresh"))) is None  # signed by a key that is no more


async def test_issuer_that_is_away_is_told_and_not_taken_for_a_refusal(issuer: Issuer, outside: Outside) -> None:
    issuer.broken = 500
    who = TokenAuthenticator([Provider(settings(issuer), outside)])
    with pytest.raises(SumikaError) as told:
        await who.identify(issuer.token())
    assert (told.value.code, told.value.status) == ("issuer_unreachable", 503)
    assert await who.identify(issuer.token(issuer.claims(iss="https://stranger.example"))) is None


async def test_issuer_that_hangs_delays_nobody_whose_key_is_known(
    issuer: Issuer, who: TokenAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await who.identify(issuer.token()) is not None
    issuer.delay_s = 2.0
    later(monkeypatch, 2 * 3600)  # the keys are old by now
    assert await asyncio.wait_for(who.identify(issuer.token(issuer.claims(sub="later"))), 1) is not None
    await asyncio.sleep(0.1)
    assert issuer.asked["/.well-known/openid-configuration"] == 2  # and are asked for meanwhile


async def test_issuer_that_goes_away_later_is_believed_to_have_its_keys(issuer: Issuer, who: TokenAuthenticator) -> None:
    assert await who.identify(issuer.token()) is not None
    issuer.broken = 500
    assert await who.identify(issuer.token(issuer.claims(sub="later"))) is not None


@pytest.mark.parametrize(
    "keys",
    [
        [{"kty": "oct", "kid": "rsa-1", "k": "AAAA"}], [{"kty": "RSA", "kid": "rsa-1", "n": "AQAB", "e": "AQAB"}], ["x"], [None], [{}],
        [{"kid": "rsa-1"}], "keys", None,
    ],
    ids=range(8),
)  # fmt: skip
async def test_keys_that_are_none_believe_nobody(issuer: Issuer, who: TokenAuthenticator, keys: Any) -> None:
    issuer.keys = keys
    try:
        assert await who.identify(issuer.token()) is None
    except SumikaError as error:
        assert error.code == "issuer_unreachable"


async def test_name_that_two_keys_have_is_nobodys(issuer: Issuer, who: TokenAuthenticator) -> None:
    issuer.keys = [jwk(issuer.rsa, "rsa-1"), jwk(OTHER_RSA, "rsa-1")]
    assert await who.identify(issuer.token()) is None


@pytest.mark.parametrize(
    ("claims", "code", "en", "ja"),
    [
        ({"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.example/"}}, "groups": None},
         "groups_not_listed", "more groups than the token holds", "トークンに入る数"),
        ({"hasgroups": True, "groups": None}, "groups_not_listed", "more groups than the token holds", "トークンに入る数"),
        ({"groups": "llm-admins"}, "groups_not_listed", "no list of texts", "文字列の一覧"),
        ({"groups": []}, "no_role", "nobody has given you a role", "役割が割り当てられていません"),
    ],
)  # fmt: skip
async def test_good_token_without_a_grant_is_told_why(
    issuer: Issuer, who: TokenAuthenticator, caplog: pytest.LogCaptureFixture, claims: dict[str, Any], code: str, en: str, ja: str
) -> None:
    token = issuer.token(issuer.claims(**claims))
    caplog.set_level("INFO")
    assert await who.identify(token) is None
    told = who.explain(token)
    assert told is not None and (told.code, told.status) == (code, 403) and en in told.en and ja in told.ja
    assert code in caplog.text and "docs/access.md" in told.en + " docs/access.md"
    scope = {"path": "/v1/models", "headers": [(b"authorization", b"Bearer " + token.encode())]}
    with pytest.raises(SumikaError) as refused:
        await authenticate(scope, [who])
    assert refused.value.code == code
    assert sum(issuer.asked.values()) == 2, "nothing that a token names is fetched"


async def test_who_forges_a_token_is_told_nothing(issuer: Issuer, who: TokenAuthenticator) -> None:
    forged = issuer.token(issuer.claims(groups="llm-admins"), key=OTHER_RSA)
    assert await who.identify(forged) is None and who.explain(forged) is None


async def test_token_of_two_thousand_groups_is_told_to_be_too_long(issuer: Issuer, who: TokenAuthenticator) -> None:
    token = issuer.token(issuer.claims(groups=[f"group-{n:04}" for n in range(2_000)]))
    scope = {"path": "/v1/models", "headers": [(b"authorization", b"Bearer " + token.encode())]}
    with pytest.raises(SumikaError) as refused:
        await authenticate(scope, [who])
    assert (refused.value.code, refused.value.status) == ("token_too_long", 401) and "groups" in refused.value.en


@pytest.mark.parametrize("claim", ["azp", "client_id", "appid", "cid"])
async def test_any_of_the_usual_claims_says_which_client_asked(issuer: Issuer, who: TokenAuthenticator, claim: str) -> None:
    assert await who.identify(issuer.token(issuer.claims(**{"azp": None, claim: CLIENT}))) is not None


async def test_claim_that_names_the_client_is_a_setting(issuer: Issuer, outside: Outside) -> None:
    who = TokenAuthenticator([Provider(settings(issuer, client_claim="app"), outside)])
    assert await who.identify(issuer.token(issuer.claims(azp=None, app=CLIENT))) is not None
    for claims in ({"azp": CLIENT}, {"azp": CLIENT, "app": "other"}, {"azp": None, "app": [CLIENT]}):
        assert await who.identify(issuer.token(issuer.claims(**claims))) is None


async def test_without_clients_a_token_need_not_say_who_asked_for_it(issuer: Issuer, outside: Outside) -> None:
    who = TokenAuthenticator([Provider(settings(issuer, clients=[]), outside)])
    assert await who.identify(issuer.token(issuer.claims(azp=None))) is not None
    assert await who.identify(issuer.token(issuer.claims(azp="someone-elses-app"))) is None
