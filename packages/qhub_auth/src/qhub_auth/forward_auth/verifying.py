"""The proxy's question: may this request pass?"""

from __future__ import annotations

from urllib.parse import urlencode

from qhub_auth.errors import shown
from qhub_auth.forward_auth import headers as reading
from qhub_auth.forward_auth.base import DOWN, Base
from qhub_auth.forward_auth.deciding import LONGEST_RETURN, Known, Origin
from qhub_auth.forward_auth.pages import Answer
from qhub_auth.forward_auth.policy import Decision, Original, Verdict, judged
from qhub_auth.forward_auth.readings import AmbiguousError

__all__ = ["Verify"]


class Verify(Base):
    """The proxy's question: may this request pass?"""

    async def check(self) -> None:
        """Answer with 200 and who it is, or with what the client is to get."""
        deciding, sent = self.deciding, self.sent()
        if not deciding.trust.covers(self.request.remote_ip or "", sent):
            deciding.log.warning(
                "/verify was asked by %s, which is not a proxy that c.ForwardAuth.trusted_proxies "
                "and proxy_secret_file trust",
                self.request.remote_ip,
            )
            self.answer(Answer(403, "Only the proxy may ask this"))
            return
        try:
            original = reading.original_of(sent)
            reading.refuse_aliases(sent)
            route = deciding.policy.route_of(original)
        except AmbiguousError as error:
            self.answer(Answer(400, "This request is not clear", (f"It was refused: {error}.",)))
            return
        known = await deciding.who(sent, secure=original.scheme == "https")
        decision = judged(route, known.person)
        if decision.verdict is Verdict.ALLOWED:
            self._let_through(sent, known)
        elif decision.verdict is Verdict.NOT_SIGNED_IN:
            self._ask_to_sign_in(sent, original, decision, known)
        else:
            self._refuse(original, decision, known)

    get = post = put = patch = delete = head = options = check

    def _let_through(self, sent: reading.Headers, known: Known) -> None:
        settings = self.deciding.settings
        for name, value in reading.identity_headers(
            known.person, groups=settings.pass_groups, roles=settings.pass_roles
        ).items():
            self.set_header(name, value)
        # Traefik hands these on in place of the client's where `authResponseHeaders` names them:
        # the program behind has no use for our cookies and, with them, could act as the person.
        cookies = reading.without_cookies(
            sent,
            (
                name
                for secure in (True, False)
                for name in self.deciding.cookie_names(secure=secure)
            ),
        )
        if cookies:
            self.set_header("Cookie", cookies)
        if "authorization" in sent and (settings.pass_authorization or not known.by_token):
            self.set_header("Authorization", sent["authorization"][0])
        self.finish()

    def _ask_to_sign_in(
        self, sent: reading.Headers, original: Original, decision: Decision, known: Known
    ) -> None:
        if known.unavailable:
            self.answer(DOWN, as_json=True)
            return
        route = decision.route
        if reading.wants_page(sent, original.method) and not (route and route.api):
            here = Origin(original.scheme, original.host, original.port)
            url = original.url
            if len(url) > LONGEST_RETURN:
                url = original.origin + "/"
            base = f"{self.deciding.page_origin(here)}{self.deciding.settings.prefix}sign-in"
            self.redirect(f"{base}?{urlencode({'return_to': url})}")
            return
        challenge = 'Bearer realm="qhub"'
        if known.problem:
            challenge += ', error="invalid_token"'
        self.set_header("WWW-Authenticate", challenge)
        why = (f"The access token does not count: {known.problem}.",) if known.problem else ()
        self.answer(Answer(401, "You are not signed in", why), as_json=True)

    def _refuse(self, original: Original, decision: Decision, known: Known) -> None:
        name = known.person.name if known.person else ""
        if decision.route is None:
            self.deciding.log.info("No route for %s%s", original.host, shown(original.path, 128))
            self.answer(
                Answer(403, "This address is open to nobody", ("No rule says who may come here.",))
            )
            return
        title = decision.route.title
        self.deciding.log.info("%s lacks %s for %s", shown(name), decision.missing, shown(title))
        here = Origin(original.scheme, original.host, original.port)
        sign_out = f"{self.deciding.page_origin(here)}{self.deciding.settings.prefix}sign-out"
        needs = " and ".join(decision.missing)
        self.answer(
            Answer(
                403,
                "You may not open this",
                (
                    f"You are signed in as {name}. {title} needs {needs}.",
                    "If you should have that, ask whoever runs this hub.",
                ),
                links={} if known.by_token else {"Sign out": sign_out},
                missing=decision.missing,
            )
        )
